"""Whatever happens to a checkpoint's files is found, named, and survived."""

import errno
import hashlib
import io
import json
import os
import random
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoints import files_of, names_in, restored_kernel, save, saved_run, tiny_state

from cvvae_jax import sharding
from cvvae_jax.checkpoint import Checkpoints, items
from cvvae_jax.config import MeshConfig
from cvvae_jax.errors import UserError
from cvvae_jax.resumable import manifest


def flip(path: Path, rng: random.Random) -> None:
    """One bit of one byte."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def test_flipped_bytes_and_truncations_anywhere_are_named_and_the_step_before_is_used(
    tmp_path, caplog
):
    """Every file twice, the manifest among them."""
    folder = tmp_path / "checkpoints"
    checkpoints = saved_run(folder, (1, 2))
    shutil.copytree(folder / "2", tmp_path / "whole")
    files = [path.relative_to(folder / "2") for path in files_of(folder / "2")]
    cases = [(damage, file) for file in files for damage in (flip, truncate)]
    assert len(cases) >= 25
    rng = random.Random(0)
    for damage, file in cases:
        damage(folder / "2" / file, rng)
        caplog.clear()
        assert checkpoints.latest_intact_step() == 1, (damage, file)
        assert f"{folder / '2'} is damaged: {file}" in caplog.text
        assert names_in(folder) == {"1", "2.damaged"}
        shutil.rmtree(folder / "2.damaged")
        shutil.copytree(tmp_path / "whole", folder / "2")
    assert checkpoints.latest_intact_step() == 2
    np.testing.assert_array_equal(restored_kernel(checkpoints, 2), tiny_state(2)["model"].kernel)


@pytest.mark.parametrize("file", ["weights/_METADATA", "manifest.json"])
def test_missing_files_are_named(tmp_path, caplog, file):
    checkpoints = saved_run(tmp_path, (1, 2))
    (tmp_path / "2" / file).unlink()
    assert checkpoints.latest_intact_step() == 1
    assert f"{tmp_path / '2'} is damaged: {file}" in caplog.text


def test_additional_files_are_named(tmp_path, caplog):
    checkpoints = saved_run(tmp_path, (1, 2))
    (tmp_path / "2/state/d/more").write_text("of another checkpoint")
    assert checkpoints.latest_intact_step() == 1
    assert f"{tmp_path / '2'} is damaged: state/d/more was not there" in caplog.text


def test_hidden_files_that_others_left_are_no_damage(tmp_path):
    checkpoints = saved_run(tmp_path, (1,))
    for name in (".nfs0001", "state/.DS_Store"):
        (tmp_path / "1" / name).write_text("of a file system")
    assert checkpoints.latest_intact_step() == 1


@pytest.mark.parametrize("file", ["weights/_METADATA", "manifest.json"])
def test_file_that_cannot_be_read_now_is_an_error_and_no_damage(tmp_path, monkeypatch, file):
    """A network disk may be away for a moment; the checkpoint stays the newest."""
    checkpoints = saved_run(tmp_path, (1, 2))
    whole_open = io.open

    def failing(path, *args, **options):
        if str(path) == str(tmp_path / "2" / file):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return whole_open(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", failing)
        with pytest.raises(OSError, match=r"Input/output error; whether .* damaged") as error:
            checkpoints.latest_intact_step()
    assert error.value.filename == str(tmp_path / "2" / file)
    assert names_in(tmp_path) == {"1", "2"}
    assert checkpoints.latest_intact_step() == 2


def test_without_any_whole_checkpoint_nothing_is_started_anew(tmp_path):
    """All are listed, and stay where they are, so that the next start says the same."""
    checkpoints = saved_run(tmp_path, (1, 2))
    for step in (1, 2):
        (tmp_path / f"{step}/model/metadata").write_text("{}")
    for _ in range(2):
        with pytest.raises(UserError) as error:
            checkpoints.latest_intact_step()
        for step in (1, 2):
            assert f"{tmp_path / str(step)} is damaged: model/metadata has 2 by" in str(error.value)
    assert names_in(tmp_path) == {"1", "2"}


def test_damaged_step_is_saved_again_and_nothing_is_lost(tmp_path):
    checkpoints = saved_run(tmp_path, (1, 2))
    for _ in range(2):
        (tmp_path / "2/model/metadata").write_text("{}")
        assert checkpoints.latest_intact_step() == 1
        save(checkpoints, 2)
        assert checkpoints.latest_intact_step() == 2
    assert names_in(tmp_path) == {"1", "2", "2.damaged", "2.damaged-2"}


@pytest.mark.parametrize(
    "files",
    [
        [],
        "weights/_METADATA",
        {"weights/_METADATA": 1},
        {"weights/_METADATA": {"bytes": 1}},
        None,
    ],
    ids=["list", "text", "number", "incomplete", "deep"],
)
def test_manifest_that_is_no_list_of_files_is_damaged(tmp_path, files):
    """Though its own hash is right, as that of one by others can be."""
    checkpoints = saved_run(tmp_path, (1, 2))
    own = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    text = json.dumps({"files": files, "sha256": own}, indent=1) + "\n"
    text = "[" * 100_000 if files is None else text
    (tmp_path / "2" / manifest.NAME).write_text(text)
    assert checkpoints.latest_intact_step() == 1
    assert manifest.problems(tmp_path / "2.damaged") == ["manifest.json is damaged"]


def test_unfinished_checkpoint_is_said_and_the_one_before_is_used(tmp_path, caplog):
    """A kill leaves such folders: while Orbax writes, while the manifest is written, while an old
    checkpoint is removed."""
    checkpoints = saved_run(tmp_path, (1,))
    for name in ("2.partial.orbax-checkpoint-tmp", "3.partial", "4.orbax-checkpoint-tmp"):
        shutil.copytree(tmp_path / "1", tmp_path / name)
    shutil.copytree(tmp_path / "1", tmp_path / "0.removing")
    assert checkpoints.latest_intact_step() == 1
    assert [record.args for record in caplog.records] == [("2",), ("3",), ("4",)]
    assert names_in(tmp_path) == {"1"}


def test_run_killed_in_its_first_save_starts_anew_and_says_so(tmp_path, caplog):
    (tmp_path / "2.partial").mkdir()
    assert Checkpoints(tmp_path, keep=1).latest_intact_step() is None
    assert "the checkpoint of step 2 was not finished" in caplog.text


def emptied(checkpoint: Path) -> None:
    for entry in checkpoint.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def half_copied(checkpoint: Path) -> None:
    """In the order of names, as far as `model`."""
    for entry in sorted(checkpoint.iterdir()):
        if entry.name > "model":
            shutil.rmtree(entry)
    (checkpoint / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [emptied, half_copied])
def test_newest_step_without_a_manifest_is_damaged_and_the_one_before_is_used(
    tmp_path, caplog, damage
):
    """Nothing of it tells that it was written by a version of the code that wrote no manifests."""
    checkpoints = saved_run(tmp_path / "checkpoints", (1, 2))
    damage(tmp_path / "checkpoints/2")
    newest = items.find_model(tmp_path)
    with pytest.raises(UserError, match=r"2 is damaged: manifest.* is missing\. .*/1 is intact"):
        items.read_description(newest)
    assert checkpoints.latest_intact_step() == 1
    said = f"{newest} is damaged: manifest.json is missing; it is kept as 2.damaged, and the one"
    assert said in caplog.text
    assert names_in(tmp_path / "checkpoints") == {"1", "2.damaged"}
    save(checkpoints, 2)
    assert checkpoints.latest_intact_step() == 2


def test_folder_whose_name_is_no_step_is_left_alone(tmp_path):
    checkpoints = saved_run(tmp_path, (1,))
    (tmp_path / "007").mkdir()
    assert checkpoints.latest_intact_step() == 1
    assert names_in(tmp_path) == {"1", "007"}


def test_manifest_lists_every_file_with_its_size(tmp_path):
    saved_run(tmp_path, (1,))
    text = (tmp_path / "1" / manifest.NAME).read_text()
    for file in files_of(tmp_path / "1"):
        name = file.relative_to(tmp_path / "1").as_posix()
        listed = f'"{name}": {{\n   "bytes": {file.stat().st_size},\n   "sha256": "'
        assert (listed in text) == (name != manifest.NAME)


def test_step_has_its_name_only_once_its_manifest_is_written(tmp_path, monkeypatch):
    seen, write = [], manifest.write

    def watched(folder):
        seen.append(names_in(tmp_path))
        write(folder)
        seen.append((folder / manifest.NAME).exists())

    monkeypatch.setattr(manifest, "write", watched)
    saved_run(tmp_path, (1,))
    assert seen == [{"1.partial"}, True]
    assert names_in(tmp_path) == {"1"}


def test_damaged_weights_are_refused_and_the_whole_checkpoint_before_is_named(
    tmp_path, monkeypatch
):
    """A flipped bit is no error to Orbax. Steps 2 and 3 are damaged, and 1 is whole."""
    saved_run(tmp_path / "checkpoints", (1, 2, 3))
    for step in (2, 3):
        item = tmp_path / f"checkpoints/{step}/weights"
        largest = max(files_of(item), key=lambda path: path.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[-100] ^= 1
        largest.write_bytes(content)
    monkeypatch.setattr(items, "_SMALL", 10_000)  # the file is larger
    newest = items.find_model(tmp_path)
    assert set(items.read_shapes(newest)) == {"kernel"}  # which reads no numbers
    target = jax.eval_shape(lambda: tiny_state(3)["model"])
    with pytest.raises(UserError) as error:
        items.restore_model(newest, target)
    damaged = largest.relative_to(newest)
    assert str(error.value) == (
        f"{newest} is damaged: {damaged} has changed since it was written (by its SHA-256). "
        f"{tmp_path}/checkpoints/1 is intact and can be given instead."
    )
    items.restore_model(newest, target, raw=True)  # another item, which is whole
    items.restore_model(tmp_path / "checkpoints/1", target)


def test_checkpoint_without_its_weights_is_not_passed_over(tmp_path):
    saved_run(tmp_path, (1, 2))
    shutil.rmtree(tmp_path / "2/weights")
    assert items.find_model(tmp_path) == tmp_path / "2"
    with pytest.raises(UserError, match=r"2 is damaged: weights/_METADATA is missing"):
        items.read_shapes(tmp_path / "2")


def test_other_types_are_said(tmp_path, caplog):
    """There and back: what float32 has more than bfloat16 is gone, and nothing else."""
    folder, kernel = tmp_path, tiny_state(1)["model"].kernel
    checkpoints = saved_run(folder, (1,))
    target = jax.eval_shape(lambda: tiny_state(1))
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "bfloat16"), target["model"])
    half = target | {"model": half}
    state = checkpoints.restore(1, half, sharding.one_device(half))
    assert "step 1 was saved in other types: model float32 -> bfloat16" in caplog.text
    np.testing.assert_array_equal(state["model"].kernel, kernel.astype("bfloat16"))
    checkpoints.save(2, state=state, weights=state["model"], config={})
    state = checkpoints.restore(2, target, sharding.one_device(target))
    assert "step 2 was saved in other types: model bfloat16 -> float32" in caplog.text
    rounded = kernel.astype("bfloat16").astype("float32")
    np.testing.assert_array_equal(state["model"].kernel, rounded)


def test_other_devices_are_said(tmp_path, caplog):
    """From a mesh onto another one."""
    state = tiny_state(1)
    for step, fsdp in enumerate((8, 2), start=1):
        mesh = sharding.make_mesh(MeshConfig(fsdp=fsdp), batches=(8,))
        layout = sharding.shardings(state, mesh)
        checkpoints = Checkpoints(tmp_path, keep=1)
        if step == 1:
            placed = jax.device_put(state, layout)
            checkpoints.save(1, state=placed, weights=placed["model"], config={})
            checkpoints.restore(1, state, layout)
            assert not caplog.records
        else:
            restored = checkpoints.restore(1, state, layout)
        checkpoints.close()
    np.testing.assert_array_equal(restored["model"].kernel, state["model"].kernel)
    (record,) = caplog.records
    words = "of data 1, fsdp 8, space 1; it goes on with 1, on data 4, fsdp 2, space 1"
    assert words in record.getMessage()


@pytest.mark.parametrize(("count", "said"), [(1, "a"), (3, "a; b; c"), (4, "a; b; c; and 1 more")])
def test_three_problems_are_named_and_the_others_counted(count, said):
    assert items.in_short(list("abcd")[:count]) == said


@pytest.mark.parametrize(("count", "end"), [(3, "x2 is missing."), (4, "x2 is missing; ....")])
def test_state_of_other_networks_names_three_of_its_problems(tmp_path, count, end):
    checkpoints = saved_run(tmp_path, (1,))
    more = {f"x{number}": jnp.zeros(()) for number in range(count)}
    target = jax.eval_shape(lambda: tiny_state(1) | more)
    with pytest.raises(UserError, match="doesn't fit this run") as error:
        checkpoints.restore(1, target, sharding.one_device(target))
    assert str(error.value).endswith(f": x0 is missing; x1 is missing; {end}")

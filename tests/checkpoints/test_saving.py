"""Which checkpoints are kept, and saves that fail."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tiny_checkpoints import names_in, restored_kernel, save, saved_run, tiny_state

import cvvae_jax
from cvvae_jax import checkpoint, sharding
from cvvae_jax.checkpoint import Checkpoints, items, orbax_saving
from cvvae_jax.checkpoint import steps as step_folders
from cvvae_jax.config import Bucket, MeshConfig, StageConfig
from cvvae_jax.errors import UserError
from cvvae_jax.resumable import manifest


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to write more bytes than these to a file, as it refuses on a full
    disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("smallest", [items._SMALL, 2048], ids=["whole", "shared"])
def test_devices_that_hold_the_same_large_array_share_its_writing(tmp_path, monkeypatch, smallest):
    """16,384 bytes that eight devices hold, in slices of an eighth from 2,048 on."""
    monkeypatch.setattr(items, "_SMALL", smallest)
    state = tiny_state(1)
    mesh = sharding.make_mesh(MeshConfig(), batches=(8,))
    placed = jax.device_put(state, jax.NamedSharding(mesh, jax.P()))
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state=placed, weights=placed["model"], config={})
    checkpoints.finish()
    np.testing.assert_array_equal(restored_kernel(checkpoints, 1), state["model"].kernel)
    tree = ocp.PyTreeCheckpointHandler().metadata(tmp_path / "1/weights").tree
    assert tree["kernel"].storage.chunk_shape == ((8, 64) if smallest == 2048 else (64, 64))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        pytest.param({}, {"5", "6"}, id="newest"),
        pytest.param({"keep_every": 2}, {"2", "4", "5", "6"}, id="every"),
        pytest.param({"keep_best": "psnr_recon"}, {"3", "5", "6"}, id="best"),
        pytest.param(
            {"keep_every": 4, "keep_best": "psnr_recon"}, {"3", "4", "5", "6"}, id="all_of_them"
        ),
    ],
)
def test_checkpoints_that_are_kept(tmp_path, options, kept):
    """Reopened in between; step 4 has no evaluation, and the score of step 2 is no number."""
    scores = {1: 20.0, 2: float("nan"), 3: 22.0, 5: 21.0, 6: 21.5}
    for steps in ((1, 2, 3), (4, 5, 6)):
        checkpoints = Checkpoints(tmp_path, keep=2, **options)
        for step in steps:
            save(checkpoints, step, **({"psnr_recon": scores[step]} if step in scores else {}))
        checkpoints.finish()
        best = checkpoints.best()
        checkpoints.close()
    assert names_in(tmp_path) == kept
    assert best == ((3, 22.0) if "keep_best" in options else None)


def test_kept_for_ever_needs_to_be_saved_first():
    with pytest.raises(UserError, match=r"multiple of checkpoint_every \(1000\), not 1500"):
        StageConfig(9, (Bucket(1, 8, 8),), keep_every=1500)


def test_failed_save_is_a_warning_and_the_next_one_succeeds(tmp_path, caplog, capfd):
    """Nothing is left of it, and the step before stays until another one is there in its place."""
    checkpoints = saved_run(tmp_path, (1,))
    with largest_file(10_000):
        save(checkpoints, 2)
        checkpoints.wait()
    assert [record.getMessage() for record in caplog.records] == [
        f"the checkpoint of step 2 could not be written to {tmp_path}: File too large. Earlier "
        "ones stay, and the next one is tried as usual"
    ]
    assert checkpoints.latest_step() == checkpoints.latest_intact_step() == 1
    save(checkpoints, 3)
    checkpoints.finish()
    assert names_in(tmp_path) == {"3"}
    restored_kernel(checkpoints, 3)
    checkpoints.close()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("steps", [(), (1,)], ids=["first", "later"])
def test_failed_save_that_is_waited_for_is_an_error(tmp_path, steps):
    checkpoints = saved_run(tmp_path, steps, keep=1)
    with largest_file(10_000):
        save(checkpoints, 2)
        goes_on = "goes on from step 1" if steps else "starts anew"
        with pytest.raises(OSError, match=rf"step 2 .* File too large. The same .* {goes_on}"):
            checkpoints.finish()
    save(checkpoints, 3)
    checkpoints.finish()


def test_save_that_fails_at_once_is_a_warning(tmp_path, caplog):
    """Where not even a folder can be made."""
    (tmp_path / "checkpoints").write_text("a file")
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    save(checkpoints, 1)
    assert "step 1 could not be written" in caplog.text
    assert "File exists" in caplog.text
    (tmp_path / "checkpoints").unlink()
    save(checkpoints, 2)
    checkpoints.finish()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 2 MB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_full_disk_is_a_warning_until_there_is_room(small_disk, caplog):
    checkpoints = saved_run(small_disk / "checkpoints", (1,))
    free = shutil.disk_usage(small_disk).free
    (small_disk / "else").write_bytes(bytes(free - 16_384))
    save(checkpoints, 2)
    checkpoints.wait()
    assert "step 2 could not be written" in caplog.text
    assert "No space left on device" in caplog.text
    assert checkpoints.latest_step() == checkpoints.latest_intact_step() == 1
    (small_disk / "else").unlink()
    save(checkpoints, 3)
    checkpoints.finish()
    assert names_in(small_disk / "checkpoints") == {"3"}


def test_older_checkpoint_is_removed_only_when_all_of_the_newer_is_on_the_disk(
    tmp_path, monkeypatch
):
    """Else a crash of the machine could leave neither."""
    done, real_sync, real_remove = [], os.fsync, step_folders.remove

    def fsync(file):
        done.append(os.readlink(f"/proc/self/fd/{file}"))
        real_sync(file)

    def remove(folder, step):
        done.append("removed")
        real_remove(folder, step)

    checkpoints = saved_run(tmp_path, (1,))
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(step_folders, "remove", remove)
    save(checkpoints, 2)
    checkpoints.finish()
    assert done[-2:] == [str(tmp_path), "removed"]
    synced = {path.replace("/2.partial", "/2") for path in done[:-2]}
    entries = {str(path) for path in (tmp_path / "2").rglob("*")} | {str(tmp_path / "2")}
    assert entries - synced == {str(tmp_path / "2" / manifest.NAME)}  # synced by its first name
    assert any(path.startswith(f"{tmp_path / '2'}/.manifest.") for path in synced)


def test_model_that_cannot_be_written_leaves_nothing_and_harms_nothing(tmp_path):
    (tmp_path / "model.partial").mkdir()
    (tmp_path / "model.partial" / "mine").touch()
    with largest_file(1_000), pytest.raises(Exception, match="File too large"):
        checkpoint.save_model(tmp_path / "model", tiny_state(1)["model"])
    assert names_in(tmp_path) == {"model.partial"}
    checkpoint.save_model(tmp_path / "model", tiny_state(1)["model"])
    assert names_in(tmp_path) == {"model", "model.partial"}
    assert names_in(tmp_path / "model.partial") == {"mine"}


def test_loops_of_others_that_are_closed_too_early_are_told_of(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    orbax_saving._drop_leftovers.__wrapped__()
    error = RuntimeError("Event loop is closed")
    others = types.SimpleNamespace(exc_value=error, exc_traceback=None, object=object())
    sys.unraisablehook(others)
    assert told == [others]


def test_checkpoint_says_what_wrote_it(tmp_path):
    saved_run(tmp_path, (1,))
    origin = json.loads((tmp_path / "1/origin/metadata").read_text())
    assert origin["cvvae_jax"] == cvvae_jax.__version__
    assert origin["jax"] == jax.__version__
    assert (origin["processes"], origin["devices"], origin["mesh"]) == (1, 8, None)
    assert set(origin) == {
        "cvvae_jax",
        "commit",
        "jax",
        "flax",
        "optax",
        "orbax-checkpoint",
        "processes",
        "devices",
        "device",
        "mesh",
    }

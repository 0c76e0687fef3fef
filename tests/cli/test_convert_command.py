"""`convert`: round trips are exact, and a failure leaves everything as it was."""

import collections
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import cvvae_jax
from cvvae_jax import paths
from cvvae_jax.cli.main import main
from cvvae_jax.config import ConfigError
from cvvae_jax.convert import export
from cvvae_jax.convert.export import WEIGHTS

ROOT = Path(__file__).parents[2]
IMAGE_VAE = "autoencoderkl_sd_tiny"


@pytest.fixture(scope="module")
def shapes() -> dict:
    """Names and shapes of a small AutoencoderKL."""
    return json.loads((ROOT / f"tests/golden/{IMAGE_VAE}.json").read_text())["state_dict"]


@pytest.fixture
def tensors(shapes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) - 0.5 for name, shape in shapes.items()}


@pytest.fixture
def source(tmp_path, tensors) -> Path:
    return write(tmp_path / "source", tensors)


def write(folder: Path, tensors: dict, **config) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps({"scaling_factor": 0.18215, **config}))
    return folder


def run(*arguments) -> int:
    return main(["convert", *map(str, arguments)])


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_refused(capsys, folder: Path, *arguments, says: str) -> None:
    """One error, exit status 2, and no file written, changed or lost."""
    before = snapshot(folder)
    capsys.readouterr()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error:") == 1 and "Traceback" not in captured.err
    assert says in captured.err
    assert snapshot(folder) == before


def assert_same(read: dict, tensors: dict) -> None:
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(read[name], tensor, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_round_trip_is_exact(tmp_path, tensors, dtype):
    tensors = {name: t.astype(np.dtype(dtype)) for name, t in tensors.items()}
    write(tmp_path / "source", tensors)
    assert run(tmp_path / "source", tmp_path / "ours") == 0
    assert run(tmp_path / "ours", tmp_path / "back") == 0
    with safe_open(tmp_path / "back" / WEIGHTS, "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert_same({name: file.get_tensor(name) for name in file.keys()}, tensors)  # noqa: SIM118


def test_the_table_names_what_was_converted(tmp_path, source, capsys):
    assert run(source, tmp_path / "ours") == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    digest = subprocess.check_output(["sha256sum", source / WEIGHTS], text=True).split()[0]
    assert lines["family"] == "image VAE"
    assert lines["tensors"] == "180"
    assert lines["parameters"] == "1,250,759"
    assert lines["dtype"] == "float32, computed in float32"
    assert lines["sha256"] == digest
    assert digest in (tmp_path / "ours" / "README.md").read_text()


def test_the_card_passes_the_license_on(tmp_path, source):
    (tmp_path / "README.md").write_text("---\nlicense: openrail++\n---\n")
    assert run(source, tmp_path / "ours") == 0
    assert run(tmp_path / "ours", tmp_path / "back") == 0
    for folder in ("ours", "back"):
        card = (tmp_path / folder / "README.md").read_text()
        assert card.startswith("---\nlicense: openrail++\n")
        assert f'cvvae_jax.load("{folder}")' in card
        assert "AutoencoderKL.from_pretrained(" in card


def test_a_source_without_a_license_gets_none(tmp_path, source):
    assert run(source, tmp_path / "ours") == 0
    assert "license | not stated" in (tmp_path / "ours/README.md").read_text()


def test_types_change_only_on_demand(tmp_path, source, tensors):
    assert run(source, tmp_path / "half", "--to", "torch", "--dtype", "float16") == 0
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    assert_same(load_file(tmp_path / "half" / WEIGHTS), halves)


def test_our_weights_change_their_type_on_demand(tmp_path, source, tensors):
    assert run(source, tmp_path / "ours") == 0
    assert run(tmp_path / "ours", tmp_path / "half", "--dtype", "float16") == 0
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    assert_same(load_file(tmp_path / "half" / WEIGHTS), halves)


def test_options_reach_the_reader(tmp_path, tensors, capsys):
    """A prefix, a config.json of another name, and (refused here) raw weights."""
    named = {f"{part}.{name}": tensor for part in "ab" for name, tensor in tensors.items()}
    source = write(tmp_path / "source", named)
    (tmp_path / "other.json").write_text('{"scaling_factor": 0.5}')
    options = ["--prefix", "b.", "--config", tmp_path / "other.json"]
    assert_refused(capsys, tmp_path, source, tmp_path / "ours", says="several models")
    assert_refused(capsys, tmp_path, source, tmp_path / "ours", *options, "--raw", says="no run")
    assert run(source, tmp_path / "ours", *options) == 0
    assert cvvae_jax.load(tmp_path / "ours").config.scaling_factor == 0.5


def test_the_card_names_the_folder_that_was_found(tmp_path, tensors):
    (tmp_path / "pipeline").mkdir()
    write(tmp_path / "pipeline/vae", tensors)
    assert run(tmp_path / "pipeline", tmp_path / "ours") == 0
    assert "converted from | pipeline/vae (" in (tmp_path / "ours/README.md").read_text()


def test_verification_that_cannot_be_is_refused(tmp_path, source, capsys, monkeypatch):
    assert run(source, tmp_path / "ours") == 0
    arguments = [tmp_path / "ours", tmp_path / "again", "--to", "jax", "--verify"]
    assert_refused(capsys, tmp_path, *arguments, says="neither SRC nor DST is PyTorch's")
    monkeypatch.setitem(sys.modules, "torch", None)
    arguments = [source, tmp_path / "again", "--verify"]
    assert_refused(capsys, tmp_path, *arguments, says="--verify needs torch: pip install torch")


def test_an_export_keeps_the_settings(tmp_path, tensors):
    source = write(tmp_path / "source", tensors, scaling_factor=0.13025)
    assert run(source, tmp_path / "ours") == 0
    assert run(tmp_path / "ours", tmp_path / "back") == 0
    settings = json.loads((tmp_path / "back/config.json").read_text())
    assert settings["_class_name"] == "AutoencoderKL"
    assert settings["scaling_factor"] == 0.13025
    assert settings["block_out_channels"] == [32, 64, 64, 64]


def test_weights_that_a_type_cannot_hold_are_named(tmp_path, tensors, capsys):
    tensors["decoder.conv_in.bias"][3] = 1e6
    source = write(tmp_path / "source", tensors)
    assert run(source, tmp_path / "ours", "--dtype", "float16") == 0
    assert "decoder.conv_in.bias (Inf)" in capsys.readouterr().err
    config = cvvae_jax.load(tmp_path / "ours").config
    assert (config.param_dtype, config.dtype) == ("float16", "float32")


def test_weights_that_are_no_numbers_are_named_and_converted(tmp_path, tensors, capsys):
    tensors["decoder.conv_in.bias"][3] = np.nan
    tensors["decoder.conv_out.bias"][1] = np.inf
    source = write(tmp_path / "source", tensors)
    for target in ("ours", "back"):
        assert run(source, tmp_path / target) == 0
        warning = capsys.readouterr().err
        assert "warning" in warning and "(NaN)" in warning and "(Inf)" in warning
        source = tmp_path / target
    assert_same(load_file(tmp_path / "back" / WEIGHTS), tensors)


def test_nothing_is_overwritten_unasked(tmp_path, source, capsys):
    assert run(source, tmp_path / "ours") == 0
    assert_refused(capsys, tmp_path, source, tmp_path / "ours", says="--overwrite replaces it")


@pytest.mark.parametrize("model", [False, True])
def test_what_is_no_part_of_a_model_is_never_overwritten(tmp_path, source, capsys, model):
    if model:
        assert run(source, tmp_path / "ours") == 0
    (tmp_path / "ours").mkdir(exist_ok=True)
    (tmp_path / "ours/notes.txt").write_text("precious")
    for flags in ([], ["--overwrite"]):
        assert_refused(capsys, tmp_path, source, tmp_path / "ours", *flags, says="(notes.txt)")


def test_a_checkpoint_of_a_run_is_never_overwritten(tmp_path, source, capsys):
    """It holds the train state too."""
    assert run(source, tmp_path / "5") == 0
    (tmp_path / "5/state").mkdir()
    (tmp_path / "5/state/data").write_text("precious")
    assert_refused(capsys, tmp_path, source, tmp_path / "5", "--overwrite", says="(state)")


def test_the_source_is_never_overwritten(tmp_path, source, capsys):
    assert run(source, tmp_path / "ours") == 0
    for folder in (source, tmp_path / "ours"):
        assert_refused(capsys, tmp_path, folder, folder, "--overwrite", says="to be converted")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / WEIGHTS).symlink_to(source / WEIGHTS)
    assert_refused(capsys, tmp_path, linked, source, "--overwrite", says="to be converted")
    inner = write(source / "inner", {"main.0.weight": np.zeros(1, np.float32)})
    shutil.copy(source / WEIGHTS, inner / WEIGHTS)
    assert_refused(capsys, tmp_path, inner, source, "--overwrite", says="to be converted")


def test_an_empty_folder_is_filled(tmp_path, source):
    (tmp_path / "ours").mkdir()
    assert run(source, tmp_path / "ours") == 0
    assert cvvae_jax.load(tmp_path / "ours").config.latent_channels == 4


def test_two_conversions_to_one_folder_do_not_meet(tmp_path, source, capsys):
    with export.new_folder(tmp_path / "ours", size=1, overwrite=False) as folder:
        folder.mkdir()
        says = "being written by another process"
        assert_refused(capsys, tmp_path, source, tmp_path / "ours", says=says)
    assert (tmp_path / "ours").is_dir()


def test_what_came_meanwhile_is_not_replaced(tmp_path):
    with (
        pytest.raises(ConfigError, match=r"precious\.txt"),
        export.new_folder(tmp_path / "ours", size=1, overwrite=False) as folder,
    ):
        folder.mkdir()
        (tmp_path / "ours").mkdir()
        (tmp_path / "ours/precious.txt").write_text("precious")
    assert list(snapshot(tmp_path)) == ["ours/precious.txt"]


def test_a_model_is_overwritten_on_demand(tmp_path, source, tensors):
    assert run(source, tmp_path / "ours") == 0
    other = write(tmp_path / "other", {name: t + 1 for name, t in tensors.items()})
    assert run(other, tmp_path / "ours", "--overwrite") == 0
    bias = cvvae_jax.load(tmp_path / "ours").decoder.conv_in.bias[...]
    np.testing.assert_array_equal(bias, tensors["decoder.conv_in.bias"] + 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "ours", "source"]


def test_what_a_killed_run_left_is_cleared_away(tmp_path, source, capsys):
    assert run(source, tmp_path / "ours") == 0
    # Killed between the two renames: the old model waits under its other name.
    (tmp_path / "ours").rename(tmp_path / ".ours.convert-old")
    (tmp_path / ".ours.convert-new/ours").mkdir(parents=True)
    assert run(source, tmp_path / "ours") == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert cvvae_jax.load(tmp_path / "ours").config.latent_channels == 4
    assert run(source, tmp_path / "ours", "--overwrite") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "source"]


def test_a_damaged_file_is_refused_before_anything_is_written(tmp_path, source, capsys):
    whole = (source / WEIGHTS).read_bytes()
    for size in (3, 500, len(whole) // 2, len(whole) - 1):
        (source / WEIGHTS).write_bytes(whole[:size])
        assert_refused(capsys, tmp_path, source, tmp_path / "ours", says="cut short")


def test_a_file_that_fails_half_way_leaves_nothing(tmp_path, source, capsys, monkeypatch):
    """The header was sound, and the disk was not."""

    def broken(*_, **__):
        raise OSError("Input/output error")

    monkeypatch.setattr(export, "write_ours", broken)
    assert_refused(capsys, tmp_path, source, tmp_path / "ours", says="Input/output error")


def test_the_old_model_stays_if_the_new_one_cannot_take_its_place(
    tmp_path, source, capsys, monkeypatch
):
    assert run(source, tmp_path / "ours") == 0
    rename = Path.rename

    def broken(path, target):
        if path.parent.name == ".ours.convert-new":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", broken)
    assert_refused(
        capsys, tmp_path, source, tmp_path / "ours", "--overwrite", says="Input/output error"
    )


def test_a_link_is_followed(tmp_path, source):
    assert run(source, tmp_path / "ours") == 0
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    assert run(source, tmp_path / "link", "--overwrite", "--dtype", "float16") == 0
    assert (tmp_path / "link").is_symlink()
    assert cvvae_jax.load(tmp_path / "ours").config.param_dtype == "float16"


@pytest.mark.parametrize("target", ["x" * 300, "ours.safetensors"])
def test_names_that_cannot_be_are_refused(tmp_path, source, capsys, target):
    assert_refused(capsys, tmp_path, source, tmp_path / target, says=target[:20])


@pytest.mark.parametrize("target", ["missing/ours", "source/config.json/ours"])
def test_a_target_without_a_folder_is_refused(tmp_path, source, capsys, target):
    assert_refused(capsys, tmp_path, source, tmp_path / target, says="there is no folder")


def test_a_target_that_is_a_file_is_refused(tmp_path, source, capsys):
    (tmp_path / "ours").write_text("precious")
    for flags in ([], ["--overwrite"]):
        assert_refused(capsys, tmp_path, source, tmp_path / "ours", *flags, says="ours")


def test_a_folder_that_is_not_writable_is_refused(tmp_path, source, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert_refused(capsys, tmp_path, source, tmp_path / "ours", says="is not writable")


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int):
    """A file system of its own, for those who may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs more rights")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("to", ["jax", "torch"])
@pytest.mark.parametrize("surprise", [False, True])
def test_a_full_disk_is_refused(tmp_path, source, capsys, monkeypatch, to, surprise):
    """Before anything is written, or, where something else fills it meanwhile, by the write."""
    if surprise:
        usage = collections.namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, 10**12))
    says = "No space left on device" if surprise else "it takes 5 MB"
    with small_disk(tmp_path / "disk", megabytes=3) as disk:
        assert_refused(capsys, tmp_path, source, disk / "ours", "--to", to, says=says)
        assert not list(disk.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_killed_conversion_loses_nothing(tmp_path, source, tensors, overwrite):
    """At ten random moments while it writes: the source is whole, and the target is the old, the
    new or none."""
    partial = tmp_path / ".ours.convert-new"
    process = _start(source, tmp_path / "ours", until=partial)
    start = time.monotonic()
    assert process.wait() == 0
    seconds = time.monotonic() - start
    new = paths.flatten(cvvae_jax.load(tmp_path / "ours"))
    old = write(tmp_path / "old", {name: t + 1 for name, t in tensors.items()})
    before, rng, outcomes = snapshot(source), np.random.default_rng(0), collections.Counter()
    for _ in range(10):
        shutil.rmtree(tmp_path / "ours", ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)
        if overwrite:
            assert run(old, tmp_path / "ours") == 0
        process = _start(source, tmp_path / "ours", until=partial)
        time.sleep(seconds * rng.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert snapshot(source) == before
        outcomes[_outcome(tmp_path / "ours", new)] += 1
    assert outcomes.keys() <= ({"old", "new"} if overwrite else {"none", "new"})
    assert outcomes["new"] < 10, "no kill came in time"
    assert run(source, tmp_path / "ours", "--overwrite") == 0
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def _start(source: Path, target: Path, *, until: Path) -> subprocess.Popen:
    """A conversion in a process of its own that has begun to write."""
    command = [sys.executable, "-m", "cvvae_jax", "convert", source, target, "--overwrite"]
    environment = {**os.environ, "XLA_FLAGS": ""}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    while not until.exists():
        assert process.poll() is None
        time.sleep(0.001)
    return process


def _outcome(target: Path, new: dict) -> str:
    if not target.exists():
        return "none"
    found = paths.flatten(cvvae_jax.load(target))
    shift = {float(np.round(np.max(found[path] - new[path]))) for path in new}
    assert shift in ({0.0}, {1.0})
    return "new" if shift == {0.0} else "old"

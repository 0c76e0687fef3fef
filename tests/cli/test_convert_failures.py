"""`convert`: a failure, at any moment, leaves everything as it was."""

import collections
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from converting import ROOT, assert_refused, run, snapshot, write

import cvvae_jax
from cvvae_jax import parameter_paths
from cvvae_jax.convert import export
from cvvae_jax.convert.export import WEIGHTS
from cvvae_jax.errors import UserError


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
        pytest.raises(UserError, match=r"precious\.txt"),
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


@pytest.mark.parametrize("to", ["jax", "torch"])
def test_the_longest_names_are_written(tmp_path, source, to):
    """A name has 255 bytes at most; with a suffix for what is unfinished it would be too long."""
    long = tmp_path / ("ü" * 127 + "x")
    for flags in ([], ["--overwrite"]):
        assert run(source, long, "--to", to, *flags) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([long.name, "source"])


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
    new = parameter_paths.flatten(cvvae_jax.load(tmp_path / "ours"))
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
    found = parameter_paths.flatten(cvvae_jax.load(target))
    shift = {float(np.round(np.max(found[path] - new[path]))) for path in new}
    assert shift in ({0.0}, {1.0})
    return "new" if shift == {0.0} else "old"

"""Runs whose checkpoints fail or are damaged: nothing on disk is lost, nothing is silent."""

import os
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from tiny_training import short_run

from cvvae_jax import paths
from cvvae_jax.checkpoint import Checkpoints
from cvvae_jax.config import ConfigError, TrainConfig
from cvvae_jax.loading import load
from cvvae_jax.training import loop


@pytest.fixture
def config(image_vae, no_evaluations, tmp_path) -> TrainConfig:
    return short_run(tmp_path / "run", image_vae, gan="none")


class FullDisk:
    """The system refuses to write large files while these steps are saved, as a full disk does."""

    def __init__(self, monkeypatch):
        self.steps: set[int] = set()
        save = Checkpoints.save

        def limited(checkpoints, step, **items):
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            if step in self.steps:
                resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
            save(checkpoints, step, **items)
            checkpoints.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

        monkeypatch.setattr(Checkpoints, "save", limited)


def steps_in(folder: Path) -> set[str]:
    return {entry.name for entry in (folder / "checkpoints").iterdir()}


def test_run_survives_a_failed_save_and_a_damaged_checkpoint(config, monkeypatch):
    """Step 6 can't be saved, and step 9 is damaged afterwards: the next start goes on from step 3,
    to the same end."""
    folder, disk = Path(config.workdir), FullDisk(monkeypatch)
    disk.steps = {6}
    loop.train(config)
    assert steps_in(folder) == {"3", "9"}
    log = (folder / "log.txt").read_text()
    assert "warning: the checkpoint of step 6 could not be written" in log
    assert "File too large; training goes on" in log
    expected = paths.flatten(load(folder))
    largest = max((folder / "checkpoints/9/state").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    disk.steps = set()
    loop.train(config)
    log = (folder / "log.txt").read_text()
    name = largest.relative_to(folder / "checkpoints/9")
    assert f"checkpoints/9 is damaged: {name} has changed since it was written" in log
    assert "it is kept as 9.damaged, and the one before is used" in log
    assert "step 3 of 9" in log
    assert steps_in(folder) == {"3", "6", "9", "9.damaged"}
    for path, leaf in paths.flatten(load(folder)).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


@pytest.mark.parametrize("stopped", [False, True], ids=["last", "stopped"])
def test_last_checkpoint_does_not_fail_silently(config, monkeypatch, stopped):
    """The run's own, and the one that a signal asks for."""
    folder, disk = Path(config.workdir), FullDisk(monkeypatch)
    put_batch, steps = loop.sharding.put_batch, []

    def signaled(batch, mesh):
        steps.append(len(steps) + 1)
        if stopped and steps[-1] == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return put_batch(batch, mesh)

    monkeypatch.setattr(loop.sharding, "put_batch", signaled)
    disk.steps = {5, 9}
    step, newest = (5, 3) if stopped else (9, 6)
    message = f"step {step} could not be written .*: File too large. The same .* from step {newest}"
    with pytest.raises(ConfigError, match=message):
        loop.train(config)
    assert str(newest) in steps_in(folder)


def test_run_without_any_whole_checkpoint_is_not_started_anew(config):
    loop.train(config)
    folder = Path(config.workdir) / "checkpoints"
    for step in folder.iterdir():
        shutil.rmtree(step / "state")
    with pytest.raises(ConfigError, match=r"no checkpoint is whole\. .*/9 is damaged: state/"):
        loop.train(config)

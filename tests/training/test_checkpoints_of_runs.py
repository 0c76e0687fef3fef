"""Runs that are killed, or whose checkpoints fail or are damaged: nothing on disk is lost, nothing
is silent."""

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from many_processes import ROOT, environment, write_recipe
from tiny_training import logged_lines, short_run

from cvvae_jax import parameter_paths
from cvvae_jax.checkpoint import Checkpoints
from cvvae_jax.config import TrainConfig
from cvvae_jax.errors import UserError
from cvvae_jax.loading import load
from cvvae_jax.training import loop
from cvvae_jax.training.jobs import plan_run


@pytest.fixture
def config(trifling_run) -> TrainConfig:
    return trifling_run


class FullDisk:
    """The system refuses to write large files while these steps are saved, as a full disk does."""

    def __init__(self, monkeypatch, *steps: int):
        self.steps = set(steps)
        save = Checkpoints.save

        def limited(checkpoints, step, **items):
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            if step in self.steps:
                resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
            save(checkpoints, step, **items)
            checkpoints.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

        monkeypatch.setattr(Checkpoints, "save", limited)


def flip_a_bit(checkpoint: Path) -> str:
    """Flips a bit of the checkpoint's largest file, and gives the file's name."""
    largest = max((checkpoint / "state").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    return largest.relative_to(checkpoint).as_posix()


def steps_in(folder: Path) -> set[str]:
    return {entry.name for entry in (folder / "checkpoints").iterdir()}


def test_run_goes_on_after_a_failed_save_and_from_before_a_damaged_checkpoint(config, monkeypatch):
    """Step 6 can't be saved, and step 9 is damaged afterwards: the next start goes on from step 3,
    to the same end. The same program on the same numbers: equal to the bit."""
    folder, disk = Path(config.workdir), FullDisk(monkeypatch, 6)
    loop.train(config)
    assert steps_in(folder) == {"3", "9"}
    log = (folder / "log.txt").read_text()
    assert "warning: the checkpoint of step 6 could not be written" in log
    assert "File too large. Earlier ones stay" in log
    expected = parameter_paths.flatten(load(folder))
    damaged = flip_a_bit(folder / "checkpoints/9")
    disk.steps = set()
    loop.train(config)
    log = (folder / "log.txt").read_text()
    assert f"checkpoints/9 is damaged: {damaged} has changed since it was written" in log
    assert "it is kept as 9.damaged, and the one before is used" in log
    assert "step 3 of 9" in log
    assert steps_in(folder) == {"3", "6", "9", "9.damaged"}
    for path, leaf in parameter_paths.flatten(load(folder)).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


def test_best_checkpoint_needs_a_score_that_there_is(config):
    stage = dataclasses.replace(config.train, keep_best="ssim_recon")
    with pytest.raises(UserError, match="keep_best is ssim_recon, but SSIM takes frames of 11"):
        plan_run(dataclasses.replace(config, train=stage))
    stage = dataclasses.replace(config.train, keep_best="psnr_compat")
    config = dataclasses.replace(config, image_vae=None, image_train=stage)
    with pytest.raises(UserError, match="but only recon is measured of the image VAE"):
        plan_run(config)


def test_last_checkpoint_does_not_fail_silently(config, monkeypatch):
    FullDisk(monkeypatch, 9)
    message = r"step 9 could not be written to .*: File too large. The same .* goes on from step 6"
    with pytest.raises(OSError, match=message):
        loop.train(config)


@pytest.mark.slow
def test_checkpoint_that_a_signal_asks_for_does_not_fail_silently(config, monkeypatch):
    FullDisk(monkeypatch, 5)
    put_batch, steps = loop.sharding.put_batch, []

    def signaled(batch, mesh):
        steps.append(len(steps) + 1)
        if steps[-1] == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return put_batch(batch, mesh)

    monkeypatch.setattr(loop.sharding, "put_batch", signaled)
    with pytest.raises(OSError, match=r"step 5 could not be written .* from step 3"):
        loop.train(config)


@pytest.mark.slow
def test_run_without_any_whole_checkpoint_is_not_started_anew(config):
    loop.train(config)
    folder = Path(config.workdir) / "checkpoints"
    for step in folder.iterdir():
        flip_a_bit(step)
    with pytest.raises(UserError, match=r"no checkpoint is intact\. .*/9 is damaged: state/"):
        loop.train(config)


def started_and_killed(config: TrainConfig, folder: Path) -> None:
    """By a process of its own: SIGKILL before step 5, once there is a checkpoint of step 3."""
    recipe = str(write_recipe(folder, config))
    command = [sys.executable, str(ROOT / "tests/worker_process.py"), recipe]
    run = subprocess.Popen(command, env=environment(devices=8) | {"FAULT": "pause 5"})
    try:
        while not (Path(config.workdir) / "checkpoints/3").exists():
            assert run.poll() is None
            time.sleep(0.05)
    finally:
        run.kill()
        run.wait()


def test_killed_run_goes_on_to_the_end_of_an_undisturbed_one(image_vae, no_evaluations, tmp_path):
    """Both runs have the same programs and numbers, and are equal to the bit."""
    config = short_run(tmp_path / "killed", image_vae, gan="none")
    undisturbed = dataclasses.replace(config, workdir=str(tmp_path / "undisturbed"))
    started_and_killed(config, tmp_path)
    assert steps_in(Path(config.workdir)) == {"3"}
    for one in (config, undisturbed):
        loop.train(one)
    for line, expected in zip(logged_lines(config), logged_lines(undisturbed), strict=True):
        for name in expected:
            assert name.startswith("throughput/") or line[name] == expected[name], name
    for raw in (False, True):
        expected = parameter_paths.flatten(load(undisturbed.workdir, raw=raw))
        for path, leaf in parameter_paths.flatten(load(config.workdir, raw=raw)).items():
            np.testing.assert_array_equal(leaf, expected[path], err_msg=path)

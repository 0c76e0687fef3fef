"""A whole run with a GAN, networks trained in turns."""

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from tiny_training import logged_lines, short_run

from cvvae_jax import parameter_paths, sharding
from cvvae_jax.config import TrainConfig
from cvvae_jax.loading import load
from cvvae_jax.processes.stop import Stopped
from cvvae_jax.training import loop

pytestmark = pytest.mark.usefixtures("with_reference_convolutions")

KEYS = {
    "step",
    *(f"loss/{name}" for name in ("total", "nll", "recon", "kl", "gan_g", "gan_d", "gan_penalty")),
    "psnr/recon",
    *(f"gan/{name}" for name in ("adaptive_weight", "logits_real", "logits_fake")),
    *(f"norm/{name}{what}" for name in ("generator", "discriminator") for what in ("", "_update")),
    *(f"learning_rate/{name}" for name in ("generator", "discriminator")),
    *(f"log_scale/{name}" for name in ("recon", "compat")),
    *(
        f"guard/{name}"
        for name in ("skipped", "vae_in_a_row", "gan_in_a_row", "rollbacks", "data_offset")
    ),
    *(f"data/{name}" for name in ("replaced_records", "bad_files")),
    *(f"throughput/{name}" for name in ("frames_per_second_per_device", "data_wait_seconds")),
}


def gan_run(folder: Path, image_vae: str) -> TrainConfig:
    config = short_run(folder, image_vae, gan="hinge", gan_penalty="lecam")
    stage = dataclasses.replace(config.train, steps=6, log_every=2, updates="alternate")
    return dataclasses.replace(config, train=stage)


def timeless(config: TrainConfig) -> dict[int, dict]:
    """The lines by their step, without what differs from run to run."""
    return {
        line["step"]: {k: v for k, v in line.items() if not k.startswith("throughput/")}
        for line in logged_lines(config)
    }


@pytest.fixture
def finished(image_vae, no_evaluations, tmp_path) -> TrainConfig:
    config = gan_run(tmp_path / "finished", image_vae)
    loop.train(config)
    return config


def test_run_logs_both_networks_and_ends_the_same_after_a_signal(
    finished, image_vae, tmp_path, monkeypatch
):
    """Both runs have the same programs and numbers, and end equal to the bit. The signal comes in
    the middle of a pair of steps, the first of which is then missing in the pair's line."""
    for line in logged_lines(finished):
        assert set(line) == KEYS
        assert np.isfinite(list(line.values())).all()
    assert list(timeless(finished)) == [2, 4, 6]

    config, given, put_batch = gan_run(tmp_path / "stopped", image_vae), [], sharding.put_batch

    def signaled(batch, mesh):
        given.append(batch)
        if len(given) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return put_batch(batch, mesh)

    monkeypatch.setattr(loop.sharding, "put_batch", signaled)
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 3"):
        loop.train(config)
    assert {path.name for path in (Path(config.workdir) / "checkpoints").iterdir()} == {"3"}
    loop.train(config)
    assert len(given) == 6
    expected, found = timeless(finished), timeless(config)
    assert (found[2], found[6]) == (expected[2], expected[6])
    assert found[4].items() <= expected[4].items()
    expected = parameter_paths.flatten(load(finished.workdir))
    for path, leaf in parameter_paths.flatten(load(config.workdir)).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)

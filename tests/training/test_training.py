"""Whole runs of tiny models on moving photographs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from cvvae_jax import paths
from cvvae_jax.checkpoint import Checkpoints
from cvvae_jax.config import (
    Bucket,
    ConfigError,
    DataConfig,
    ImageVAEConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
    VideoVAEConfig,
)
from cvvae_jax.loading import load
from cvvae_jax.training import loop

WIDTHS = {
    "block_channels": (8, 8),
    "blocks_per_level": 1,
    "norm_groups": 2,
    "mid_attention": False,
}


def tiny_run(folder: Path, *, steps: int = 6) -> TrainConfig:
    rhythm = {"log_every": 1, "eval_every": 3, "checkpoint_every": 2}
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=1)
    return TrainConfig(
        image_model=ImageVAEConfig(quant_conv=False, **WIDTHS),
        model=VideoVAEConfig(temporal_strides=(2,), decoder_attention="spatial", **WIDTHS),
        image_train=StageConfig(2, (Bucket(1, 16, 8),), optimizer, **rhythm),
        train=StageConfig(steps, (Bucket(5, 16, 8), Bucket(1, 16, 8)), optimizer, **rhythm),
        data=DataConfig(eval_clips=3),
        workdir=str(folder),
    )


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    loop.train(tiny_run(folder))
    return folder


def test_run_folder_holds_all_that_is_promised(finished):
    for name in (
        "config.json",
        "metrics.jsonl",
        "log.txt",
        "scores.json",
        "samples/contact_sheet.png",
        "checkpoints/6/weights",
        "image_vae/checkpoints/2/weights",
    ):
        assert (finished / name).exists(), name
    assert list((finished / "tensorboard").iterdir())
    scores = json.loads((finished / "scores.json").read_text())
    assert set(scores) == {"recon", "compat", "image_vae", "bicubic", "bicubic_time"}
    assert all(np.isfinite(list(scores.values())))


def test_both_kinds_of_batches_are_trained_on(finished):
    steps = [line for line in lines(finished) if "loss/total" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    images = [line for line in steps if line["psnr/compat"] == pytest.approx(line["psnr/recon"])]
    assert len(images) < 6


def test_resumed_run_equals_uninterrupted_run(finished, tmp_path, monkeypatch):
    """The same program on the same numbers: equal to the bit, and 1e-6 would be asked."""
    config, stopped_at = tiny_run(tmp_path), 5

    def stop(n, batch):
        if n == stopped_at:
            raise KeyboardInterrupt
        return batch

    real_put, count = loop.sharding.put_batch, iter(range(100))
    interrupted = lambda batch, mesh: real_put(stop(next(count) - 2, batch), mesh)  # noqa: E731
    monkeypatch.setattr(loop.sharding, "put_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config)
    monkeypatch.setattr(loop.sharding, "put_batch", real_put)
    assert Checkpoints(tmp_path / "checkpoints", keep=3).latest_step() == 4
    loop.train(config)
    expected = paths.flatten(load(finished))
    for path, leaf in paths.flatten(load(tmp_path)).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
    assert lines(tmp_path) == lines(finished)


def test_finished_run_trains_no_further(finished):
    before = lines(finished)
    loop.train(tiny_run(finished))
    assert lines(finished) == before


def test_random_start_and_loaded_image_vae(finished, tmp_path):
    config = dataclasses.replace(
        tiny_run(tmp_path, steps=1), init="random", image_vae=str(finished / "image_vae")
    )
    loop.train(config)
    assert not (tmp_path / "image_vae").exists()


def test_video_vae_is_no_image_vae(finished, tmp_path):
    config = dataclasses.replace(tiny_run(tmp_path), image_vae=str(finished))
    with pytest.raises(ConfigError, match="an image VAE is wanted"):
        loop.train(config)


def test_latents_of_other_shapes_cannot_be_compatible(finished, tmp_path):
    config = tiny_run(tmp_path)
    model = dataclasses.replace(config.model, latent_channels=8)
    config = dataclasses.replace(config, model=model, image_vae=str(finished / "image_vae"))
    with pytest.raises(ConfigError, match="latent_channels is 8, the image VAE's 4"):
        loop.train(config)

"""The smallest networks, states and batches that training can be tested on."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax import parameter_paths
from cvvae_jax.config import (
    Bucket,
    DataConfig,
    DiscriminatorConfig,
    ImageVAEConfig,
    LossConfig,
    LPIPSConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
    VideoVAEConfig,
)
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.feature_networks import vgg
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.training.objective import Draws
from cvvae_jax.training.state import Frozen, Optimizers, RandomKeys, TrainState
from cvvae_jax.training.step import accumulated_gradients

WIDTHS = {"block_channels": (8, 8), "blocks_per_level": 1, "norm_groups": 2, "mid_attention": False}
IMAGE = ImageVAEConfig(quant_conv=False, **WIDTHS)
VIDEO = VideoVAEConfig(temporal_strides=(2,), decoder_attention="spatial", **WIDTHS)
# Networks of one level, for runs: most of a run's time goes into compiling.
_ONE_LEVEL = WIDTHS | {"block_channels": (8,)}
SMALLEST_IMAGE = ImageVAEConfig(quant_conv=False, **_ONE_LEVEL)
SMALLEST_VIDEO = VideoVAEConfig(temporal_strides=(), decoder_attention="spatial", **_ONE_LEVEL)
DISCRIMINATOR = DiscriminatorConfig(base_channels=8, layers=2, norm_groups=2)
_AT_ONCE = OptimizerConfig(warmup_steps=0)
STAGE = StageConfig(10, (Bucket(5, 16, 8),), _AT_ONCE, _AT_ONCE, updates="joint")
# L2, since the gradient of L1 jumps where rounding turns an error's sign.
SMOOTH = LossConfig(recon="l2", compat_recon="l2", lpips_weight=0.0, log_scale=0.1)


def first_state(config: VideoVAEConfig = VIDEO, *, gan: bool = True) -> TrainState:
    """A state with random networks; every call gives a copy, since a step may take its memory."""
    return jax.tree.map(jnp.array, _first_state(config, gan))


@functools.cache
def _first_state(config: VideoVAEConfig, gan: bool) -> TrainState:
    def create(model_key, discriminator_key):
        model = VideoVAE(config, rngs=nnx.Rngs(model_key))
        discriminator = Discriminator(DISCRIMINATOR, rngs=nnx.Rngs(discriminator_key))
        optimizers = Optimizers.create(STAGE)
        return TrainState.create(model, discriminator if gan else None, optimizers, log_scale=0.1)

    return jax.jit(create)(jax.random.key(0), jax.random.key(1))


@functools.cache
def frozen_networks(config: ImageVAEConfig = IMAGE, *, lpips: bool = False) -> Frozen:
    """A random image VAE and, with five narrow convolutions in place of 13, the network
    of LPIPS (of fewer channels all may be zero, where its gradient is as good as infinite)."""
    with jax.ensure_compile_time_eval():  # a function that is being traced may be the first to ask
        image_vae = jax.jit(lambda key: ImageVAE(config, rngs=nnx.Rngs(key)))(jax.random.key(2))
    if not lpips:
        return Frozen(image_vae)
    with pytest.MonkeyPatch.context() as patch, jax.ensure_compile_time_eval():
        patch.setattr(vgg, "LEVELS", ((16,),) * 5)
        network = jax.jit(lambda key: LPIPS(LPIPSConfig(), rngs=nnx.Rngs(key)))
        return Frozen(image_vae, network(jax.random.key(3)))


def short_run(folder: Path, image_vae: str, **loss: Any) -> TrainConfig:
    """Nine steps of the smallest networks against a trained image VAE, a checkpoint every third
    one, all in the log."""
    stage = StageConfig(
        steps=9,
        buckets=(Bucket(5, 8, 8),),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=1),
        log_every=1,
        checkpoint_every=3,
    )
    return TrainConfig(
        image_model=SMALLEST_IMAGE,
        model=SMALLEST_VIDEO,
        image_train=stage,
        train=stage,
        image_vae=image_vae,
        discriminator=DISCRIMINATOR,
        data=DataConfig(eval_clips=1),
        loss=LossConfig(lpips_weight=0.0, compat_mode="none", **loss),
        workdir=str(folder),
    )


def logged_lines(config: TrainConfig) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    text = (Path(config.workdir) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def random_batch(
    count: int, *, frames: int = 5, height: int = 16, width: int = 16, seed: int = 0
) -> dict[str, np.ndarray]:
    """Noise, with the records' seeds."""
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 256, (count, frames, height, width, 3), np.uint8)
    return {"video": video, "seed": rng.integers(0, 2**32, count, np.uint32)}


def batch_gradients(state: TrainState, batch: dict[str, Any], frozen: Frozen, **options: Any):
    """`accumulated_gradients` of a batch with the draws of its seeds."""
    video, seeds = batch["video"], batch["seed"]
    keys = RandomKeys.create(0)
    draws = Draws.create(state.model, keys, seeds, state.step, video_shape=video.shape)
    return accumulated_gradients(state, jnp.asarray(video), draws, frozen, **options)


def compiled_gradients(
    update: str = "joint", *, loss: LossConfig, stage: StageConfig = STAGE, **changes: Any
):
    """`batch_gradients` for `jax.jit`, with changes of the stage."""
    stage = dataclasses.replace(stage, **changes)
    return jax.jit(functools.partial(batch_gradients, update=update, stage=stage, loss=loss))


def assert_gradients_equal(ours: Any, theirs: Any, *, tolerance: float) -> None:
    """To a fraction of each tensor's largest value.

    Gradients that are zero but for rounding (biases before a norm) are compared with 1e-6 of the
    global norm.
    """
    ours, theirs = parameter_paths.flatten(ours), parameter_paths.flatten(theirs)
    assert set(ours) == set(theirs)
    theirs = {path: np.asarray(gradient, np.float64) for path, gradient in theirs.items()}
    floor = 1e-6 * np.sqrt(sum(np.square(gradient).sum() for gradient in theirs.values()))
    assert floor > 0
    for path, gradient in theirs.items():
        error = np.abs(np.asarray(ours[path]) - gradient).max()
        assert error <= max(tolerance * np.abs(gradient).max(), floor), (path, error)


def assert_metrics_equal(ours: dict, theirs: dict, *, tolerance: float) -> None:
    """Every number, relatively."""
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=tolerance, err_msg=name)

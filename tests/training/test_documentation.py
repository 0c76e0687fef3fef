"""docs/training.md names what training logs."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cvvae_jax.config import (
    Bucket,
    ImageVAEConfig,
    LossConfig,
    LPIPSConfig,
    StageConfig,
    TrainConfig,
    VideoVAEConfig,
)
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.training.jobs import initial_state, plan_run
from cvvae_jax.training.state import Frozen
from cvvae_jax.training.step import train_step

pytestmark = pytest.mark.usefixtures("with_reference_convolutions")

DOCS = Path(__file__).parents[2] / "docs/training.md"
WIDTHS = {"block_channels": (8, 8), "blocks_per_level": 1, "norm_groups": 2}


def logged() -> set[str]:
    """Every key that a step of any kind can log, with all terms of the objective on."""
    stage = StageConfig(1, (Bucket(5, 16, 8),))
    mode = "decoder,encoder,latent,features"
    loss = LossConfig(
        compat_mode=mode, compat_lpips_weight=0.5, difference_weight=1.0, gan_penalty="r1"
    )
    image = ImageVAEConfig(**WIDTHS)
    config = TrainConfig(
        image_model=image,
        model=VideoVAEConfig(temporal_strides=(2,), **WIDTHS),
        image_train=stage,
        train=stage,
        lpips="missing",
        loss=loss,
    )
    job = plan_run(config, allow_missing=True).video
    frozen = jax.eval_shape(
        lambda key: Frozen(
            ImageVAE(image, rngs=nnx.Rngs(key)), LPIPS(LPIPSConfig(), rngs=nnx.Rngs(key))
        ),
        jax.random.key(0),
    )
    state = jax.eval_shape(functools.partial(initial_state, job, seed=0), frozen, None)
    batch = {
        "video": jax.ShapeDtypeStruct((1, 5, 16, 16, 3), jnp.uint8),
        "seed": jax.ShapeDtypeStruct((1,), jnp.uint32),
    }
    keys = set()
    for update in ("generator", "discriminator"):
        step = functools.partial(train_step, update=update, stage=stage, loss=loss, seed=0)
        keys |= set(jax.eval_shape(step, state, batch, frozen)[1])
    return keys


def test_every_metric_is_documented_and_no_other():
    keys = logged()
    groups = {key.split("/")[0] for key in keys}
    named = re.findall(r"`([a-z_]+/[a-z_]+)`", DOCS.read_text())
    assert {name for name in named if name.split("/")[0] in groups} == keys

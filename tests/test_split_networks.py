"""Networks of the official layouts, narrow, on every kind of mesh: gradients equal one device's."""

import dataclasses
import functools

import jax
import pytest
from flax import nnx
from tiny_training import (
    SMOOTH,
    STAGE,
    assert_gradients_equal,
    assert_metrics_equal,
    compiled_gradients,
    random_batch,
)

from cvvae_jax import sharding
from cvvae_jax.config import DiscriminatorConfig, MeshConfig
from cvvae_jax.models import image_vae, video_vae
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.training.state import Frozen, Optimizers, TrainedNetworks, TrainState

MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (4, 2, 1), (2, 1, 4), (1, 2, 4), (2, 2, 2)]
NARROW = {"block_channels": (8, 8, 8, 8), "blocks_per_level": 1, "norm_groups": 4}
# Both families, and all that a discriminator is regularized by.
FAMILIES = {
    "sd21": ("sd", "r1", {"compat_mode": "both", "mapping": "random"}),
    "sd3": ("sd3", "lecam", {"compat_mode": "decoder", "mapping": "mean"}),
}


def networks(family: str) -> tuple[TrainState, Frozen]:
    def narrow(presets, name):
        return dataclasses.replace(presets[name], **NARROW)

    discriminator = DiscriminatorConfig(base_channels=8, norm_groups=4)

    def create(key):
        video = VideoVAE(narrow(video_vae.PRESETS, family), rngs=nnx.Rngs(key))
        judge = Discriminator(discriminator, rngs=nnx.Rngs(key))
        image = ImageVAE(narrow(image_vae.PRESETS, FAMILIES[family][0]), rngs=nnx.Rngs(key))
        optimizers = Optimizers.create(STAGE)
        return TrainState.create(video, judge, optimizers, log_scale=0.1), Frozen(image)

    return jax.jit(create)(jax.random.key(0))


def gradients(family: str):
    _, penalty, compat = FAMILIES[family]
    return compiled_gradients(loss=dataclasses.replace(SMOOTH, gan_penalty=penalty, **compat))


# 64 rows are one row a device of the latents and of the logits.
BATCH = random_batch(8, frames=5, height=64, width=16)


@functools.cache
def on_one_device(family: str):
    state, frozen = networks(family)
    return gradients(family)(state, BATCH, frozen)


@pytest.mark.slow
@pytest.mark.parametrize("shape", MESHES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_whole_networks_equal_those_of_one_device(family, shape, monkeypatch):
    """Sums are taken in another order, through some 100 layers: 1e-4."""
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 1024)
    mesh = sharding.make_mesh(MeshConfig(*shape), batches=(8,))
    state, frozen = jax.tree.map(
        jax.device_put, networks(family), sharding.shardings(networks(family), mesh)
    )
    parts = TrainedNetworks(state.model, state.log_scales, state.discriminator)
    run = jax.jit(
        sharding.split_rows(gradients(family), mesh),
        out_shardings=(sharding.shardings(parts, mesh), None),
    )
    with jax.set_mesh(mesh):
        grads, metrics = run(state, sharding.put_batch(BATCH, mesh), frozen)
    expected, expected_metrics = on_one_device(family)
    assert_metrics_equal(metrics, expected_metrics, tolerance=1e-4)
    for part in ("model", "log_scales", "discriminator"):
        assert_gradients_equal(getattr(grads, part), getattr(expected, part), tolerance=1e-4)

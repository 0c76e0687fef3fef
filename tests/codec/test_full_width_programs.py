"""The codec's programs of official widths are traced and lowered, not run: what is chosen by width,
such as forms of convolutions, isn't met by tiny models."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cvvae_jax.codec.programs import CodecPrograms, DeviceGroups
from cvvae_jax.config import ImageVAEConfig
from cvvae_jax.evaluation.compatibility.stretch import stretch
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import PRESETS, VideoVAE

pytestmark = pytest.mark.stack

MORE_SHARES = [DeviceGroups(1), DeviceGroups(2), DeviceGroups(4, 2)]
PLATFORMS = ("cpu", "tpu", "cuda")
GROUPS = [DeviceGroups(8), *(pytest.param(s, marks=pytest.mark.slow) for s in MORE_SHARES)]
SIZES = [(17, 96, 128), pytest.param((17, 576, 1024), marks=pytest.mark.slow)]
"""Frames, height and width; attention over the larger ones is computed in pieces."""


def abstract(kind: type, config):
    return jax.eval_shape(lambda key: kind(config, rngs=nnx.Rngs(key)), jax.random.key(0))


def lowered(traced) -> dict[str, str]:
    return {name: traced.lower(lowering_platforms=(name,)).as_text() for name in PLATFORMS}


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_official_models_can_be_lowered_for_every_platform(preset, size, dtype, groups):
    """float32 on CPUs computes with few products, in a function of their own."""
    config = dataclasses.replace(PRESETS[preset], dtype=dtype)
    devices = jax.devices()[: groups.count * groups.split_rows]
    programs = CodecPrograms(abstract(VideoVAE, config), devices)
    frames, height, width = size
    latents = (1 + frames // 4, height // 8, width // 8, config.latent_channels)
    for direction, piece in (("encode", (*size, 3)), ("decode", latents)):
        shape = (groups.count, *piece)
        traced = programs.trace(direction, shape, groups=groups, pixels="uint8")
        few_products = dtype == "float32" and groups.split_rows == 1
        for platform, text in lowered(traced).items():
            assert "stablehlo.convolution" in text
            assert ("@convolve" in text) == (few_products and platform == "cpu")


@pytest.mark.parametrize("size", [256, 320], ids=["below", "few_products"])
def test_derivatives_of_the_official_image_decoder_can_be_lowered(size):
    """On both sides of the size from which convolutions of an image are done with few products."""
    n = size // 8
    latents = jax.ShapeDtypeStruct((n, n, 4), jnp.float32)
    frame = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    traced = stretch.trace(abstract(ImageVAE, ImageVAEConfig()), latents, latents, frame)
    for text in lowered(traced).values():
        assert "stablehlo.convolution" in text

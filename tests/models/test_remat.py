"""Activation checkpointing keeps less and changes no result."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax import parameter_paths
from cvvae_jax.config import (
    DiscriminatorConfig,
    ImageVAEConfig,
    LPIPSConfig,
    Remat,
    VideoVAEConfig,
)
from cvvae_jax.losses import lpips
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE

KEY = jax.random.key(0)
TINY = {"block_channels": (4, 8), "blocks_per_level": 1, "norm_groups": 2}
TINY_VIDEO = {**TINY, "temporal_strides": (2,)}


class Case(NamedTuple):
    kind: type
    config: Any
    run: Callable
    input: tuple[int, ...] = (3, 8, 8, 3)


def reconstruct(vae, video, *, remat):
    return vae.decode(vae.encode(video, remat=remat).mode(), remat=remat)


def decode(vae, latents, *, remat):
    return vae.decode(latents, remat=remat)


def judge(network, video, *, remat):
    return network(video, remat=remat)


def distance(network, video, *, remat):
    return lpips(network, video, jnp.flip(video, axis=2), remat=remat)


CASES = {
    "spatial": Case(
        VideoVAE, VideoVAEConfig(**TINY_VIDEO, decoder_attention="spatial"), decode, (2, 4, 4, 4)
    ),
    "spatial_temporal": Case(
        VideoVAE, VideoVAEConfig(**TINY_VIDEO, spatial_padding="edge"), reconstruct
    ),
    "image": Case(ImageVAE, ImageVAEConfig(**TINY), reconstruct),
    "discriminator": Case(
        Discriminator,
        DiscriminatorConfig(base_channels=4, norm_groups=2, layers=3),
        judge,
        (3, 16, 16, 3),
    ),
    "lpips": Case(LPIPS, LPIPSConfig(), distance, (1, 16, 16, 3)),
}


# Programs with a backward pass take long to compile; tests of whole steps go through all networks.
QUICK = ("discriminator",)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CASES],
)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def inputs(case) -> tuple[nnx.Module, jax.Array]:
    make = jax.jit(lambda key: case.kind(case.config, rngs=nnx.Rngs(key)))
    noise = jax.random.normal(jax.random.key(1), (1, *case.input))
    return make(KEY), jnp.tanh(noise)


def test_results_are_the_same_to_the_bit(case, inputs):
    none, blocks, full = (
        jax.jit(functools.partial(case.run, remat=remat))(*inputs) for remat in get_args(Remat)
    )
    assert jnp.isfinite(none).all() and none.any()
    np.testing.assert_array_equal(blocks, none)
    np.testing.assert_array_equal(full, none)


def test_gradients_are_equal(case, inputs):
    """Recomputed values are the kept ones up to rounding: 1e-5 of each tensor's largest.

    Gradients that are zero but for rounding (biases before a norm) are compared with 1e-6 of the
    global norm.
    """
    none, blocks, full = (gradients(case, inputs, remat) for remat in get_args(Remat))
    floor = 1e-6 * np.sqrt(sum(float(np.square(g).sum()) for g in none.values()))
    assert floor > 0
    for path, expected in none.items():
        for name, found in (("blocks", blocks), ("full", full)):
            error = np.abs(found[path] - expected).max()
            assert error <= max(1e-5 * np.abs(expected).max(), floor), (name, path)


def gradients(case: Case, inputs, remat: Remat) -> dict[str, np.ndarray]:
    """The gradients of the network's parameters by path, and of the video."""
    run = functools.partial(case.run, remat=remat)
    grad = jax.jit(jax.grad(lambda *inputs: jnp.sin(run(*inputs)).sum(), argnums=(0, 1)))
    network, video = grad(*inputs)
    return {"video": np.asarray(video)} | {
        path: np.asarray(leaf) for path, leaf in parameter_paths.flatten(network).items()
    }


def test_less_is_kept_for_the_backward_pass(case, inputs):
    none, blocks, full = (bytes_kept(case, inputs, remat) for remat in get_args(Remat))
    # LPIPS has no blocks, so both mean the same there.
    assert full == blocks < none if case.kind is LPIPS else full < blocks < none


def bytes_kept(case: Case, inputs, remat: Remat) -> int:
    kept = backward_inputs(functools.partial(case.run, remat=remat), *inputs)
    # Activations have a batch of one; parameters, whole or the part that is used, are kept anyway.
    return sum(leaf.size * leaf.dtype.itemsize for leaf in kept if leaf.shape[:1] == (1,))


def backward_inputs(run: Callable, *inputs: Any) -> list[jax.ShapeDtypeStruct]:
    """Everything that the backward pass is given, parameters included."""
    return jax.tree.leaves(jax.eval_shape(lambda *inputs: jax.vjp(run, *inputs)[1], *inputs))


# What is kept of a function with `blocks` and with `full`, as (height, channels) in the order of
# the computation. The image VAE has two levels of one block in the encoder and two in the decoder.
IMAGE = ImageVAEConfig(**TINY, quant_conv=False)
SCALE = (1, 3)  # by which LPIPS divides pixels
FEATURES = [SCALE, (16, 3), (16, 64), (8, 128), (4, 256), (2, 512), (1, 512)]
KEPT = {
    "encoder": (
        Case(ImageVAE, IMAGE, ImageVAE.moments, (1, 8, 8, 3)),
        [(8, 3), (8, 4), (8, 4), (4, 4), (4, 8), (4, 8), (4, 8), (4, 8), (4, 8)],
        [(8, 3), (8, 4), (4, 4), (4, 8), (4, 8), (4, 8)],
    ),
    "decoder": (
        Case(ImageVAE, IMAGE, decode, (1, 4, 4, 4)),
        [(4, 4), *[(4, 8)] * 3, *[(4, 8)] * 3, (8, 8), (8, 4), (8, 4), (8, 4)],
        [(4, 4), (4, 8), (4, 8), (8, 8), (8, 4), (8, 4)],
    ),
    "discriminator": (
        CASES["discriminator"],
        [(16, 3), (8, 4), (4, 8), (4, 8), (4, 32), (4, 32), (4, 32), (4, 32)],
        [(16, 3), (8, 4), (4, 8), (4, 32), (4, 32)],
    ),
    "lpips": (CASES["lpips"], FEATURES * 2, FEATURES * 2),
}


@pytest.mark.parametrize("name", KEPT)
def test_kept_are_the_inputs_of_blocks_or_of_levels(name):
    case, blocks, full = KEPT[name]
    network = jax.eval_shape(lambda key: case.kind(case.config, rngs=nnx.Rngs(key)), KEY)
    video = jax.ShapeDtypeStruct((1, *case.input), "float32")
    for remat, expected in (("blocks", blocks), ("full", full)):
        given = backward_inputs(functools.partial(case.run, remat=remat), network, video)
        # Kernels have five axes at most, the first of them never of one.
        videos = [x for x in given if x.ndim == 5 and x.shape[0] == 1]
        assert sorted((x.shape[2], x.shape[4]) for x in videos) == sorted(expected), remat


@pytest.mark.parametrize("name", ["spatial_temporal", "image"])
def test_decode_is_the_last_convolution_of_what_it_sees(name):
    case = CASES[name]
    vae = jax.jit(lambda key: case.kind(case.config, rngs=nnx.Rngs(key)))(KEY)
    latents = jax.random.normal(jax.random.key(1), (1, 2, 4, 4, 4))
    hidden = jax.jit(case.kind.decode_hidden)(vae, latents)
    video = jax.jit(case.kind.decode)(vae, latents)
    assert hidden.shape == (*video.shape[:-1], case.config.block_channels[0])
    last = jax.jit(lambda conv, hidden: conv(hidden))(vae.decoder.conv_out, hidden)
    np.testing.assert_array_equal(last, video)

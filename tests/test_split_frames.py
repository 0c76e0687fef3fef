"""Layers compute the same on frames whose rows are split over devices as on whole frames."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from tiny_training import assert_gradients_equal

from cvvae_jax import split_frames
from cvvae_jax.models import blocks
from cvvae_jax.models.blocks import (
    Downsample,
    GroupNorm,
    ResBlock,
    SpatialAttention,
    SpatialTemporalAttention,
    Style,
    Upsample,
)
from cvvae_jax.models.conv import Conv, ConvKind

FLOAT32 = {"dtype": jnp.dtype("float32"), "param_dtype": jnp.dtype("float32")}
ZERO, EDGE = ConvKind("causal"), ConvKind("centered", "edge", "edge")
PER_FRAME = ConvKind("none")


def style(kind: ConvKind) -> Style:
    return Style(kind, kind, True, 2, 1e-6, **FLOAT32)


LAYERS = {
    "zero": lambda r: Conv(4, 6, kind=ZERO, **FLOAT32, rngs=r),
    "edge": lambda r: Conv(4, 6, kind=EDGE, **FLOAT32, rngs=r),
    "per_frame": lambda r: Conv(4, 6, kind=PER_FRAME, **FLOAT32, rngs=r),
    "along_time": lambda r: Conv(
        4, 6, kind=ConvKind("centered", spatial_taps=1), **FLOAT32, rngs=r
    ),
    "asymmetric": lambda r: Downsample(
        4, time_stride=2, padding="asymmetric", style=style(ZERO), rngs=r
    ),
    "symmetric": lambda r: Downsample(
        4, time_stride=1, padding="symmetric", style=style(EDGE), rngs=r
    ),
    "upsample": lambda r: Upsample(4, time_stride=2, style=style(EDGE), rngs=r),
    "norm": lambda r: GroupNorm(4, style=style(ZERO)),
    "block": lambda r: ResBlock(4, 6, style=style(EDGE), rngs=r),
    "attention": lambda r: SpatialAttention(4, style=style(ZERO), rngs=r),
    "attention_in_time": lambda r: SpatialTemporalAttention(4, style=style(ZERO), rngs=r),
}


def split_and_whole(name):
    """A layer's output and gradients as two functions: of four devices, of which the inner two have
    neighbors on both sides, with two rows each, which stride 2 makes one; and of one device."""
    layer = jax.tree.map(lambda p: p + 0.1, LAYERS[name](nnx.Rngs(0)))
    video = jax.random.normal(jax.random.key(0), (2, 3, 8, 6, 4))

    def loss(layer, video):
        out = layer(video)
        return split_frames.sum_over_devices(jnp.sin(3 * out).sum()), out

    run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    mesh = Mesh(np.array(jax.devices()[:4]), (split_frames.AXIS,), axis_types=(AxisType.Auto,))
    own = P(None, None, split_frames.AXIS)
    split = jax.shard_map(run, mesh=mesh, in_specs=(P(), own), out_specs=((P(), own), (P(), own)))
    return (lambda: jax.jit(split)(layer, video)), (lambda: jax.jit(run)(layer, video))


def assert_same_with_gradients(ours, expected):
    """Sums over a few hundred products are taken in another order: 1e-4 of the largest value, where
    float32 would allow 1e-5."""
    (_, out), (layer_grads, video_grads) = ours
    (_, expected_out), (expected_layer_grads, expected_video_grads) = expected
    assert_gradients_equal(layer_grads, expected_layer_grads, tolerance=1e-4)
    for a, b in ((out, expected_out), (video_grads, expected_video_grads)):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max(), rtol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_on_split_rows_equals_whole_with_gradients(name):
    split, whole = split_and_whole(name)
    assert_same_with_gradients(split(), whole())


@pytest.mark.parametrize(
    "limit", [("ATTENTION_PIECE", 5), ("SCORE_BUDGET", 2 * 12 * 48)], ids=["pieces", "groups"]
)
def test_attention_in_parts_on_split_rows_equals_whole_with_gradients(monkeypatch, limit):
    """Each device has 12 of 48 queries of every frame: three pieces, or two of three frames at
    once."""
    split, whole = split_and_whole("attention")
    expected = whole()
    monkeypatch.setattr(blocks, *limit)
    assert_same_with_gradients(split(), expected)


@pytest.mark.parametrize("pads", [(1, 0), (0, 1), (2, 1)])
@pytest.mark.parametrize("mode", ["zero", "edge"])
def test_neighbors_rows_are_those_of_the_whole_frame(pads, mode):
    video = np.arange(2 * 1 * 8 * 1 * 1, dtype=np.float32).reshape(2, 1, 8, 1, 1)
    mesh = Mesh(np.array(jax.devices()[:4]), (split_frames.AXIS,), axis_types=(AxisType.Auto,))
    own = P(None, None, split_frames.AXIS)
    add = functools.partial(split_frames.with_neighbor_rows, pads=pads, mode=mode)
    ours = jax.shard_map(add, mesh=mesh, in_specs=own, out_specs=own)(video)
    names = {"zero": "constant", "edge": "edge"}
    padded = np.pad(video, ((0, 0), (0, 0), pads, (0, 0), (0, 0)), mode=names[mode])
    height = 2 + sum(pads)
    parts = [padded[:, :, start : start + height] for start in range(0, 8, 2)]
    np.testing.assert_array_equal(ours, np.concatenate(parts, axis=2))


def test_without_split_rows_nothing_is_exchanged():
    video = jnp.ones((1, 1, 4, 4, 2))
    assert not split_frames.are_split() and split_frames.device_count() == 1
    for function in (
        split_frames.sum_over_devices,
        split_frames.mean_over_devices,
        split_frames.own_rows,
    ):
        assert function(video) is video

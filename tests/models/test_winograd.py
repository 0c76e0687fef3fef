"""Winograd's algorithm in pieces of several rows or frames, and convolutions that don't use it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from cvvae_jax import split_frames
from cvvae_jax.models import conv_forms, winograd
from cvvae_jax.models.conv import Conv, ConvKind
from cvvae_jax.models.winograd import THREE_TAPS, THREE_TAPS_UPSAMPLED

# Products, or sums of them, are added in another order: about sqrt(216) * 6e-8 of the largest.
TOLERANCE = 1e-5
ONES = (1, 1, 1)
AROUND = ((1, 1), (1, 1))


def random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


def assert_same(found, expected) -> None:
    assert found.shape == expected.shape
    assert jnp.abs(found - expected).max() <= TOLERANCE * jnp.abs(expected).max()


@pytest.fixture
def winograd_everywhere(monkeypatch):
    """The threshold of Winograd's algorithm below the sizes of tests."""
    monkeypatch.setattr(conv_forms, "_WINOGRAD_OPERATIONS", 0)
    monkeypatch.setattr(conv_forms, "_WINOGRAD_CHANNELS", 8)


@pytest.mark.parametrize(
    ("space", "size", "room", "counts"),
    [
        (THREE_TAPS, (5, 9, 6), 2, [3, 3, 1]),
        (THREE_TAPS, (5, 9, 6), 10, [2, 1, 1]),
        (THREE_TAPS_UPSAMPLED, (5, 7, 5), 3, [3, 3, 1]),
        (THREE_TAPS_UPSAMPLED, (5, 7, 5), 15, [2, 1, 1]),
    ],
    ids=["rows", "frames", "rows_upsampled", "frames_upsampled"],
)
def test_some_pieces_equal_reference(monkeypatch, space, size, room, counts):
    """Pieces of several rows of two frames, or of several frames, of which the last one overlaps
    the one before; `room` is for so many rows of tiles."""
    (t, h, w), scale = size, 2 if space == THREE_TAPS_UPSAMPLED else 1
    axes, outputs = (THREE_TAPS, space, space), (t, scale * h, scale * w)
    bytes_per_sum, columns = 2 * 4 * 4, -(-scale * w // 2)
    sums = 4 * space.products**2 * columns
    monkeypatch.setattr(winograd, "_PIECE_BYTES", room * bytes_per_sum * sums)
    winograd.convolve.clear_cache()
    assert [p.count for p in winograd._pieces(axes, outputs, bytes_per_sum)] == counts
    video, kernel = random(2, t + 2, h + 2, w + 2, 4), random(3, 3, 3, 4, 3)
    found = winograd.convolve(video, kernel, axes=axes)
    winograd.convolve.clear_cache()
    expected = conv_forms.reference(
        video, kernel, strides=ONES, pads=((0, 0), (0, 0)), upsampled=space == THREE_TAPS_UPSAMPLED
    )
    assert_same(found, expected)


def loops(function, *arrays) -> bool:
    """Whether a program for CPUs goes through pieces."""
    traced = jax.jit(function).trace(*arrays)
    return "stablehlo.while" in traced.lower(lowering_platforms=("cpu",)).as_text()


@pytest.mark.parametrize(
    ("taps", "strides", "pads"),
    [
        ((3, 3, 3), (1, 2, 2), AROUND),
        ((3, 3, 3), (2, 1, 1), AROUND),
        ((3, 1, 1), ONES, ((0, 0), (0, 0))),
        ((1, 5, 5), ONES, ((2, 2), (2, 2))),
    ],
    ids=["halved", "halved_in_time", "along_time", "five_taps"],
)
@pytest.mark.usefixtures("winograd_everywhere")
def test_strides_and_other_taps_dont_use_winograd_however_many_they_are(taps, strides, pads):
    video, kernel = random(1, 5, 6, 8, 8), random(*taps, 8, 8)
    form = functools.partial(conv_forms.convolve, strides=strides, pads=pads)
    assert not loops(form, video, kernel)
    expected = conv_forms.direct(video, kernel, strides=strides, pads=pads)
    assert_same(jax.jit(form)(video, kernel), expected)


@pytest.mark.parametrize("upsampled", [False, True], ids=["same_size", "upsampled"])
@pytest.mark.parametrize(("size", "chosen"), [((3, 8), False), ((4, 8), True), ((8, 3), False)])
@pytest.mark.usefixtures("winograd_everywhere")
def test_frames_of_three_rows_or_columns_dont_use_winograd(size, chosen, upsampled):
    video, kernel = random(1, 3, *size, 8), random(3, 3, 3, 8, 8)
    form = functools.partial(conv_forms.convolve, pads=AROUND, upsampled=upsampled)
    assert loops(form, video, kernel) == chosen
    expected = conv_forms.reference(video, kernel, strides=ONES, pads=AROUND, upsampled=upsampled)
    assert_same(jax.jit(form)(video, kernel), expected)


def test_operations_after_upsampling_are_those_of_the_larger_frames(monkeypatch):
    monkeypatch.setattr(conv_forms, "_WINOGRAD_CHANNELS", 8)
    monkeypatch.setattr(conv_forms, "_WINOGRAD_OPERATIONS", 4 * 2.0 * 5 * 6 * 6 * 27 * 8 * 8)
    form = functools.partial(conv_forms.convolve, pads=AROUND)
    video, kernel = random(1, 5, 6, 6, 8), random(3, 3, 3, 8, 8)
    assert loops(functools.partial(form, upsampled=True), video, kernel)
    assert not loops(form, video, kernel)


@pytest.mark.usefixtures("winograd_everywhere")
def test_split_rows_equal_the_whole_frame_that_uses_winograd():
    float32 = jnp.dtype("float32")
    conv = Conv(8, 8, kind=ConvKind("causal"), dtype=float32, param_dtype=float32, rngs=nnx.Rngs(0))
    video = random(1, 3, 16, 6, 8)
    mesh = Mesh(np.array(jax.devices()[:4]), (split_frames.AXIS,), axis_types=(AxisType.Auto,))
    own = P(None, None, split_frames.AXIS)
    split = jax.shard_map(conv, mesh=mesh, in_specs=own, out_specs=own)
    assert loops(conv, video) and not loops(split, video)
    assert_same(jax.jit(split)(video), jax.jit(conv)(video))

"""Windows that overlap: borders as TensorFlow and PyTorch have them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from cvvae_jax.models.feature_networks.layers import WindowConv, max_of_windows, mean_of_windows
from cvvae_jax.models.padding import window_pads

FLOAT32 = {"dtype": jnp.dtype("float32"), "param_dtype": jnp.dtype("float32")}


def random_video(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize(
    ("size", "taps", "stride", "pads"),
    [
        (224, 7, 2, (2, 3)),
        (225, 7, 2, (3, 3)),
        (112, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (16, 2, 2, (0, 0)),
        (5, 2, 2, (0, 1)),
        (9, 3, 1, (1, 1)),
        (1, 7, 2, (3, 3)),
        (8, 1, 2, (0, 0)),
    ],
)
def test_same_padding_depends_on_the_size(size, taps, stride, pads):
    """TensorFlow's rule; where the number is odd there is more after than before."""
    options = {"window": (taps,), "strides": (stride,), "padding": "same"}
    assert window_pads((size,), **options)[-1] == pads


@pytest.mark.parametrize(
    ("sizes", "taps", "stride"), [((4, 9, 10), 7, 2), ((1, 8, 7), 3, 1), ((5, 6, 6), 2, 2)]
)
def test_same_convolution_is_xlas(sizes, taps, stride):
    """XLA has TensorFlow's padding too; sums of up to 686 products of numbers of about 1."""
    video, strides = random_video(2, *sizes, 2), (stride,) * 3
    conv = WindowConv(
        2, 3, window=(taps,) * 3, strides=strides, padding="same", rngs=nnx.Rngs(0), **FLOAT32
    )
    conv.bias[...] = jnp.arange(3.0)
    layout = ("NDHWC", "DHWIO", "NDHWC")
    expected = lax.conv_general_dilated(
        video, conv.kernel[...], strides, "SAME", dimension_numbers=layout
    )
    expected = expected + jnp.arange(3.0).reshape(1, 1, 1, 1, 3)
    np.testing.assert_allclose(conv(video), expected, atol=1e-5)


def test_windows_without_time_see_every_frame_alone():
    video = random_video(2, 3, 9, 8, 2)
    conv = WindowConv(
        2, 3, window=(3, 5), strides=(2, 1), padding=(0, 2), rngs=nnx.Rngs(0), **FLOAT32
    )
    found = conv(video)
    assert found.shape == (2, 3, 4, 8, 3)
    layout = ("NHWC", "HWIO", "NHWC")
    expected = lax.conv_general_dilated(
        video[1], conv.kernel[...], (2, 1), ((0, 0), (2, 2)), dimension_numbers=layout
    )
    np.testing.assert_allclose(found[1], expected, atol=1e-5)


def windows(video: np.ndarray, window, strides, pads, fill):
    """Every window as axes of its own, after channels."""
    video = np.pad(video, ((0, 0), *pads, (0, 0)), constant_values=fill)
    found = np.lib.stride_tricks.sliding_window_view(video, window, (1, 2, 3))
    return found[:, :: strides[0], :: strides[1], :: strides[2]]


@pytest.mark.parametrize(
    ("window", "strides", "padding", "pads"),
    [
        ((3, 3, 3), (2, 2, 2), "same", ((1, 1), (0, 1), (1, 1))),
        ((1, 3, 3), (1, 2, 2), (0, 0, 0), ((0, 0), (0, 0), (0, 0))),
        ((1, 3, 3), (1, 1, 1), (0, 1, 1), ((0, 0), (1, 1), (1, 1))),
        ((2, 4, 4), (1, 1, 1), (0, 0, 0), ((0, 0), (0, 0), (0, 0))),
    ],
    ids=["same", "inside", "around", "even"],
)
def test_what_lies_beyond_the_border_counts_for_nothing(window, strides, padding, pads):
    """In the largest value, here of negative numbers, nor in the mean, whose sums of up to 27
    float32 numbers may be in another order."""
    video = -1 - np.abs(np.asarray(random_video(2, 5, 6, 7, 2)))
    options = {"window": window, "strides": strides, "padding": padding}
    found = windows(video, window, strides, pads, np.nan)
    expected = np.nanmax(found, axis=(-3, -2, -1))
    np.testing.assert_array_equal(max_of_windows(jnp.asarray(video), **options), expected)
    expected = np.nanmean(found, axis=(-3, -2, -1))
    mean = mean_of_windows(jnp.asarray(video), **options)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)

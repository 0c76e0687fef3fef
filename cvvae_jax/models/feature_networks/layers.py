"""Layers of the feature networks: convolutions and pools with any windows, which may overlap, and
batch norm with fixed statistics.

Windows are (time, height, width), or (height, width) on single frames; `padding.window_pads` has
what they see beyond the border. Frames that are split over devices are refused.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from cvvae_jax.models import conv_forms
from cvvae_jax.models.conv import TORCH_INIT
from cvvae_jax.models.padding import WindowPadding, pad_time, window_pads

_EPS = 1e-3


class WindowConv(nnx.Module):
    """A convolution with any window, padded with zeros.

    The kernel is (*window, in, out); `strides` and `padding` have the axes of the window.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        window: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
        padding: WindowPadding,
        use_bias: bool = True,
        dtype: jnp.dtype,
        param_dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        shape = (*window, inputs, outputs)
        self.kernel = nnx.Param(TORCH_INIT(rngs.params(), shape, param_dtype))
        if use_bias:
            self.bias = nnx.Param(jnp.zeros((outputs,), param_dtype))
        self.window, self.strides = window, strides or (1,) * len(window)
        self.padding, self.dtype = padding, dtype

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 d"]:
        kernel = self.kernel[...] if len(self.window) == 3 else self.kernel[...][None]
        strides = (1,) * (3 - len(self.strides)) + self.strides
        time_pads, *pads = window_pads(
            video.shape[1:4], window=self.window, strides=self.strides, padding=self.padding
        )
        video = video.astype(self.dtype)
        if any(time_pads):
            video = pad_time(video, time_pads, mode="zero")
        out = conv_forms.convolve(video, kernel, strides=strides, pads=tuple(pads))
        if not hasattr(self, "bias"):
            return out
        return out + self.bias[...].astype(self.dtype).reshape(1, 1, 1, 1, -1)


class FixedBatchNorm(nnx.Module):
    """Batch norm in evaluation mode, in float32: mean and variance of every channel are those of
    the training set, kept as parameters."""

    def __init__(self, channels: int, *, param_dtype: jnp.dtype):
        self.scale, self.running_var = (
            nnx.Param(jnp.ones((channels,), param_dtype)) for _ in range(2)
        )
        self.bias, self.running_mean = (
            nnx.Param(jnp.zeros((channels,), param_dtype)) for _ in range(2)
        )

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        scale, bias, mean, var = (
            p[...].astype(jnp.float32).reshape(1, 1, 1, 1, -1)
            for p in (self.scale, self.bias, self.running_mean, self.running_var)
        )
        return (video.astype(jnp.float32) - mean) * (scale * lax.rsqrt(var + _EPS)) + bias


class NormedConv(nnx.Module):
    """A `WindowConv` without bias, a `FixedBatchNorm`, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        window: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
        padding: WindowPadding,
        dtype: jnp.dtype,
        param_dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.conv = WindowConv(
            inputs,
            outputs,
            window=window,
            strides=strides,
            padding=padding,
            use_bias=False,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.norm = FixedBatchNorm(outputs, param_dtype=param_dtype)

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 d"]:
        return jax.nn.relu(self.norm(self.conv(video)))


def max_of_windows(
    video: Float[Array, "b t h w c"],
    *,
    window: tuple[int, int, int],
    strides: tuple[int, int, int],
    padding: WindowPadding,
) -> Float[Array, "b t2 h2 w2 c"]:
    """The largest value of every window; padding counts for nothing."""
    pads = window_pads(video.shape[1:4], window=window, strides=strides, padding=padding)
    return _reduce_windows(video, -jnp.inf, lax.max, window, strides, pads)


def mean_of_windows(
    video: Float[Array, "b t h w c"],
    *,
    window: tuple[int, int, int],
    strides: tuple[int, int, int] = (1, 1, 1),
    padding: WindowPadding,
) -> Float[Array, "b t2 h2 w2 c"]:
    """The mean of every window over the part of it that lies inside the video."""
    pads = window_pads(video.shape[1:4], window=window, strides=strides, padding=padding)
    ones = jnp.ones((1, *video.shape[1:4], 1), video.dtype)
    sums, counts = (_reduce_windows(x, 0.0, lax.add, window, strides, pads) for x in (video, ones))
    return sums / counts


def _reduce_windows(video, start, function, window, strides, pads):
    """`lax.reduce_window` along one axis after the other: 9 steps in place of 27 for 3 x 3 x 3."""
    for axis, (taps, stride, pad) in enumerate(zip(window, strides, pads, strict=True), 1):
        if taps > 1:
            sizes, steps, borders = [1] * 5, [1] * 5, [(0, 0)] * 5
            sizes[axis], steps[axis], borders[axis] = taps, stride, pad
            start = np.asarray(start, video.dtype)  # a traced one would have no gradient
            video = lax.reduce_window(video, start, function, sizes, steps, borders)
    return video

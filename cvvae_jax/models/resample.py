"""Down- and upsampling in space and time."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from cvvae_jax.models.blocks import Style
from cvvae_jax.models.conv import Conv, UpsamplingConv, WindowPadding, window_pads
from cvvae_jax.models.conv_forms import are_defined


class Downsample(nnx.Module):
    """Halves height and width, and time where `time_stride` is 2: 1 + 2k frames become 1 + k."""

    def __init__(
        self,
        channels: int,
        *,
        time_stride: int,
        padding: Literal["asymmetric", "symmetric"],
        style: Style,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            channels,
            channels,
            kind=style.conv,
            strides=(time_stride, 2, 2),
            spatial_pads=(0, 1) if padding == "asymmetric" else (1, 1),
            **style.dtypes,
            rngs=rngs,
        )

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 c"]:
        return self.conv(video)


class Upsample(nnx.Module):
    """Doubles height and width, and time where `time_stride` is 2: t frames become 2t - 1.

    The convolution makes two frames of each, as the two halves of its channels; the first frame of
    all is dropped, since the encoder's first frame stands alone. It sees the nearest frame beyond
    both ends in time, also where the network's other convolutions see black.
    """

    def __init__(self, channels: int, *, time_stride: int, style: Style, rngs: nnx.Rngs):
        self.conv = UpsamplingConv(
            channels, channels * time_stride, kind=style.upsampling, **style.dtypes, rngs=rngs
        )
        self.channels, self.time_stride = channels, time_stride

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 c"]:
        if self.time_stride == 1:
            return self.conv(video)
        if video.shape[1] == 1 and not are_defined():
            return self.conv(video, outputs=slice(self.channels, None))
        video = self.conv(video)
        return rearrange(video, "b t h w (n c) -> b (t n) h w c", n=2)[:, 1:]


def pool(
    video: Float[Array, "b t h w c"],
    *,
    window: tuple[int, int, int],
    reduction: Literal["max", "mean"],
) -> Float[Array, "b t2 h2 w2 c"]:
    """One value for every (time, height, width) window; what doesn't fill a window is left out.

    A reduction over split axes: on a CPU its gradient takes a quarter of the time of that of XLA's
    reduction over windows.
    """
    t, h, w = (size // n * n for size, n in zip(video.shape[1:4], window, strict=True))
    return reduce(
        video[:, :t, :h, :w],
        "b (t i) (h j) (w k) c -> b t h w c",
        reduction,
        **dict(zip("ijk", window, strict=True)),
    )


def max_of_windows(
    video: Float[Array, "b t h w c"],
    *,
    window: tuple[int, int, int],
    strides: tuple[int, int, int],
    padding: WindowPadding,
) -> Float[Array, "b t2 h2 w2 c"]:
    """The largest value of every (time, height, width) window, which may overlap; what lies beyond
    the border counts for nothing."""
    pads = window_pads(video.shape[1:4], window=window, strides=strides, padding=padding)
    return _reduce_windows(video, -jnp.inf, lax.max, window, strides, pads)


def mean_of_windows(
    video: Float[Array, "b t h w c"],
    *,
    window: tuple[int, int, int],
    strides: tuple[int, int, int] = (1, 1, 1),
    padding: WindowPadding,
) -> Float[Array, "b t2 h2 w2 c"]:
    """The mean of every (time, height, width) window, which may overlap, over what of it lies
    inside of the video."""
    pads = window_pads(video.shape[1:4], window=window, strides=strides, padding=padding)
    ones = jnp.ones((1, *video.shape[1:4], 1), video.dtype)
    sums, counts = (_reduce_windows(x, 0.0, lax.add, window, strides, pads) for x in (video, ones))
    return sums / counts


def _reduce_windows(video, start, function, window, strides, pads):
    """Along one axis after the other, which takes a third of the steps of 3 x 3 x 3 windows."""
    for axis, (taps, stride, pad) in enumerate(zip(window, strides, pads, strict=True), 1):
        if taps > 1:
            sizes, steps, borders = [1] * 5, [1] * 5, [(0, 0)] * 5
            sizes[axis], steps[axis], borders[axis] = taps, stride, pad
            start = np.asarray(start, video.dtype)  # a traced one would have no gradient
            video = lax.reduce_window(video, start, function, sizes, steps, borders)
    return video

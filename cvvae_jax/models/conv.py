"""Convolutions on videos (batch, time, height, width, channel); the only file that knows how
borders are padded."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from cvvae_jax import split_frames
from cvvae_jax.models import conv_forms
from cvvae_jax.models.conv_forms import SpatialPads

PadMode = Literal["zero", "edge"]
WindowPadding = Literal["same"] | tuple[int, ...]
"""Zeros beyond the border of a window's axes: so many on both sides, or TensorFlow's `same`, with
which sizes are divided by the strides and rounded up."""
TORCH_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default


@dataclasses.dataclass(frozen=True)
class ConvKind:
    """How the main convolutions of a network see time and the border.

    `time`: `none` is a 2-D convolution of every frame alone, `causal` a 3-D one that looks at two
    frames before, `centered` a 3-D one that looks one frame both ways. A causal convolution sees
    the first frame again before the start; a centered one sees `temporal_padding` beyond both ends.
    `spatial_padding` is what 3-D convolutions see beyond the frame; per-frame ones see zeros.
    `spatial_taps` is 1 for convolutions along time alone.
    """

    time: Literal["none", "causal", "centered"]
    temporal_padding: PadMode = "edge"
    spatial_padding: PadMode = "zero"
    spatial_taps: Literal[1, 3] = 3

    def per_frame(self) -> "ConvKind":
        """The 2-D convolution that stands beside these ones in half-3-D blocks."""
        return ConvKind("none")

    @property
    def pads_in_time(self) -> tuple[int, int]:
        """Frames added before and after."""
        return {"none": (0, 0), "causal": (2, 0), "centered": (1, 1)}[self.time]

    @property
    def taps(self) -> tuple[int, ...]:
        """The kernel's size along time, unless per frame, height and width."""
        space = (self.spatial_taps, self.spatial_taps)
        return space if self.time == "none" else (3, *space)


class Conv(nnx.Module):
    """A 3x3 (per frame) or 3x3x3 convolution, or one along time alone, with the padding of its
    kind.

    The kernel is (*taps, in, out) with the taps of the kind. `spatial_pads` are the pixels added
    before and after along height and width, by default as many as keep the size; `strides` are
    those of (time, height, width).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kind: ConvKind,
        strides: tuple[int, int, int] = (1, 1, 1),
        spatial_pads: tuple[int, int] | None = None,
        kernel_init: nnx.Initializer = TORCH_INIT,
        dtype: jnp.dtype,
        param_dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        shape = (*kind.taps, inputs, outputs)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros((outputs,), param_dtype))
        self.spatial_pads = spatial_pads or (kind.spatial_taps // 2,) * 2
        self.kind, self.strides, self.dtype = kind, strides, dtype

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 d"]:
        return self._convolve(video, self.kernel[...], self.bias[...])

    def _convolve(
        self, video: Array, kernel: Array, bias: Array, *, doubled: bool = False
    ) -> Array:
        video = video.astype(self.dtype)
        if self.kind.time == "none":
            kernel = kernel[None]
        elif video.shape[1] == 1 and not conv_forms.are_defined():
            kernel = self._of_one_frame(kernel)
        else:
            video = pad_time(video, self.kind.pads_in_time, mode=self._time_mode())
        video, pads = pad_space(video, self.spatial_pads, mode=self._space_mode())
        found = conv_forms.convolve(video, kernel, strides=self.strides, pads=pads, doubled=doubled)
        return found + bias.astype(self.dtype).reshape(1, 1, 1, 1, -1)

    def _of_one_frame(self, kernel: Array) -> Array:
        """What a kernel does to a video of one frame: its taps in time see that frame or black."""
        if self._time_mode() == "edge":
            return kernel.sum(0, keepdims=True)
        return kernel[self.kind.pads_in_time[0]][None]

    def _space_mode(self) -> PadMode:
        return "zero" if self.kind.time == "none" else self.kind.spatial_padding

    def _time_mode(self) -> PadMode:
        return "edge" if self.kind.time == "causal" else self.kind.temporal_padding


class UpsamplingConv(Conv):
    """A convolution of frames of twice the height and width, in which every pixel stands four
    times."""

    def __call__(
        self, video: Float[Array, "b t h w c"], *, outputs: slice = slice(None)
    ) -> Float[Array, "b t h2 w2 d"]:
        """`outputs` are the channels to be computed."""
        kernel, bias = self.kernel[..., outputs], self.bias[outputs]
        return self._convolve(video, kernel, bias, doubled=True)


class WindowConv(nnx.Module):
    """A convolution with any window, as networks that classify have them.

    The kernel is (*window, in, out); a window is (time, height, width), or (height, width) on every
    frame alone. `strides` and `padding` have the same axes.
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
        found = conv_forms.convolve(video, kernel, strides=strides, pads=tuple(pads))
        if not hasattr(self, "bias"):
            return found
        return found + self.bias[...].astype(self.dtype).reshape(1, 1, 1, 1, -1)


def window_pads(
    sizes: tuple[int, ...],
    *,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: WindowPadding,
) -> tuple[tuple[int, int], ...]:
    """What is added before and after along time, height and width, for windows of a video of these
    sizes; none along time where windows have only (height, width).

    Raises:
        ValueError: the rows of the video are split over devices.
    """
    if split_frames.are_split():
        raise ValueError("networks with any windows know nothing of rows on other devices.")
    if padding != "same":
        pads = [(pad, pad) for pad in padding]
    else:
        pads = []
        for size, taps, stride in zip(sizes[-len(window) :], window, strides, strict=True):
            missing = max((-(-size // stride) - 1) * stride + taps - size, 0)
            pads.append((missing // 2, missing - missing // 2))
    return ((0, 0),) * (3 - len(window)) + tuple(pads)


def pad_time(
    video: Float[Array, "b t h w c"], pads: tuple[int, int], *, mode: PadMode
) -> Float[Array, "b t2 h w c"]:
    """Frames added before and after: black ones, or the first and the last one again."""
    if mode == "edge":
        return pad_edges(video, pads, axis=1)
    return jnp.pad(video, ((0, 0), pads, (0, 0), (0, 0), (0, 0)))


def pad_edges(
    video: Float[Array, "..."], pads: tuple[int, int], *, axis: int
) -> Float[Array, "..."]:
    """The first and the last slice along an axis again, so many times before and after.

    `jnp.pad` takes slices of the axes that it doesn't pad, too: the gradient of those of the batch
    sends whole activations from device to device.
    """
    before, after = pads
    first, last = (lax.slice_in_dim(video, i, i + 1, axis=axis) for i in (0, video.shape[axis] - 1))
    return jnp.concatenate([first] * before + [video] + [last] * after, axis=axis)


def pad_space(
    video: Float[Array, "b t h w c"], pads: tuple[int, int], *, mode: PadMode
) -> tuple[Float[Array, "b t h2 w2 c"], SpatialPads]:
    """A video with as much of its border as a convolution can't add itself, and what that is still
    to add. Rows that are split over devices have the neighbors' as a border."""
    rows_pads = columns_pads = pads
    if split_frames.are_split():
        video, rows_pads = split_frames.with_neighbor_rows(video, pads, mode=mode), (0, 0)
    if mode == "edge":
        video = pad_edges(pad_edges(video, rows_pads, axis=2), columns_pads, axis=3)
        rows_pads = columns_pads = (0, 0)
    return video, (rows_pads, columns_pads)

"""Convolutions on videos (batch, time, height, width, channel); the only file that knows how
borders are padded."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

PadMode = Literal["zero", "edge"]
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
        kernel = self.kernel[...].astype(self.dtype)
        bias = self.bias[...].astype(self.dtype).reshape(1, 1, 1, 1, -1)
        video = video.astype(self.dtype)
        if self.kind.time == "none":
            return (
                conv_per_frame(video, kernel, strides=self.strides[1:], pads=self.spatial_pads)
                + bias
            )
        video = pad_time(video, self.kind.pads_in_time, mode=self._time_mode())
        pads = self.spatial_pads
        if self.kind.spatial_padding == "edge":
            video = pad_edges(pad_edges(video, pads, axis=2), pads, axis=3)
            pads = (0, 0)
        return conv_3d(video, kernel, strides=self.strides, pads=pads) + bias

    def _time_mode(self) -> PadMode:
        return "edge" if self.kind.time == "causal" else self.kind.temporal_padding


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


def conv_per_frame(
    video: Float[Array, "b t h w c"],
    kernel: Float[Array, "kh kw c d"],
    *,
    strides: tuple[int, int],
    pads: tuple[int, int],
) -> Float[Array, "b t h2 w2 d"]:
    """A 2-D convolution of every frame, zero-padded by `pads` along height and width."""
    frames = rearrange(video, "b t h w c -> (b t) h w c")
    frames = lax.conv_general_dilated(
        frames, kernel, strides, (pads, pads), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return rearrange(frames, "(b t) h w c -> b t h w c", b=video.shape[0])


def conv_3d(
    video: Float[Array, "b t h w c"],
    kernel: Float[Array, "kt kh kw c d"],
    *,
    strides: tuple[int, int, int],
    pads: tuple[int, int],
) -> Float[Array, "b t2 h2 w2 d"]:
    """A 3-D convolution, unpadded in time, zero-padded by `pads` along height and width.

    XLA's 3-D convolution on CPUs runs at a fraction of its 2-D one, so CPUs get the sum of 2-D
    convolutions.
    """
    return lax.platform_dependent(
        video,
        kernel,
        cpu=lambda v, k: conv_3d_as_2d(v, k, strides=strides, pads=pads),
        default=lambda v, k: conv_3d_direct(v, k, strides=strides, pads=pads),
    )


def conv_3d_direct(video, kernel, *, strides, pads):
    """The definition of `conv_3d`: one 3-D convolution."""
    return lax.conv_general_dilated(
        video, kernel, strides, ((0, 0), pads, pads), dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def conv_3d_as_2d(video, kernel, *, strides, pads):
    """`conv_3d` as a sum over the kernel's taps in time of 2-D convolutions of shifted frames."""
    taps = kernel.shape[0]
    span = video.shape[1] - taps + 1
    return sum(
        conv_per_frame(
            video[:, tap : tap + span : strides[0]], kernel[tap], strides=strides[1:], pads=pads
        )
        for tap in range(taps)
    )

"""Convolutions on videos (batch, time, height, width, channel).

`padding` has what they see beyond the border, `conv_forms` how they are computed.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax.models import conv_forms
from cvvae_jax.models.padding import PadMode, pad_space, pad_time

TORCH_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default


@dataclasses.dataclass(frozen=True)
class ConvKind:
    """What the convolutions of a network see of time, and beyond the border.

    `time` is `none` for 2-D convolutions of single frames, `causal` for 3-D convolutions that look
    at a frame and the two before it, `centered` for 3-D convolutions that look at a frame and its
    two neighbors. Before the start, a causal convolution sees the first frame again; beyond both
    ends, a centered one sees `temporal_padding`. Beyond the frame, 3-D convolutions see
    `spatial_padding`, and 2-D ones zeros. `spatial_taps` is 1 for convolutions along time alone.
    """

    time: Literal["none", "causal", "centered"]
    temporal_padding: PadMode = "edge"
    spatial_padding: PadMode = "zero"
    spatial_taps: Literal[1, 3] = 3

    def per_frame(self) -> "ConvKind":
        """The kind of the 2-D convolutions in a half-3-D block, which has one of each kind."""
        return ConvKind("none")

    @property
    def time_pads(self) -> tuple[int, int]:
        """Frames added before and after."""
        return {"none": (0, 0), "causal": (2, 0), "centered": (1, 1)}[self.time]

    @property
    def taps(self) -> tuple[int, ...]:
        """Size of the kernel: (time, height, width), or (height, width) of a 2-D one."""
        space = (self.spatial_taps, self.spatial_taps)
        return space if self.time == "none" else (3, *space)


class Conv(nnx.Module):
    """A convolution of 3 x 3 (single frames), 3 x 3 x 3 or 3 x 1 x 1 taps, padded as its kind says.

    The kernel is (*taps, in, out). `strides` are along time, height and width. `spatial_pads` are
    the pixels added before and after along height and width; by default the size is kept.
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
        self, video: Array, kernel: Array, bias: Array, *, upsampled: bool = False
    ) -> Array:
        video = video.astype(self.dtype)
        if self.kind.time == "none":
            kernel = kernel[None]
        elif video.shape[1] == 1 and not conv_forms.uses_reference_convolutions():
            kernel = self._kernel_for_one_frame(kernel)
        else:
            video = pad_time(video, self.kind.time_pads, mode=self._time_mode())
        video, pads = pad_space(video, self.spatial_pads, mode=self._space_mode())
        out = conv_forms.convolve(
            video, kernel, strides=self.strides, pads=pads, upsampled=upsampled
        )
        return out + bias.astype(self.dtype).reshape(1, 1, 1, 1, -1)

    def _kernel_for_one_frame(self, kernel: Array) -> Array:
        """The kernel, one tap in time, that does the same to a video of one frame: all its taps in
        time see that frame, or all but one see zeros."""
        if self._time_mode() == "edge":
            return kernel.sum(0, keepdims=True)
        return kernel[self.kind.time_pads[0]][None]

    def _space_mode(self) -> PadMode:
        return "zero" if self.kind.time == "none" else self.kind.spatial_padding

    def _time_mode(self) -> PadMode:
        return "edge" if self.kind.time == "causal" else self.kind.temporal_padding


class UpsamplingConv(Conv):
    """A convolution after upsampling by nearest neighbors, which doubles height and width."""

    def __call__(
        self, video: Float[Array, "b t h w c"], *, outputs: slice = slice(None)
    ) -> Float[Array, "b t h2 w2 d"]:
        """The output's channels `outputs` alone, by default all."""
        kernel, bias = self.kernel[..., outputs], self.bias[outputs]
        return self._convolve(video, kernel, bias, upsampled=True)

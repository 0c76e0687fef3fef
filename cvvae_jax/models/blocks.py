"""What networks are built of: normalization, residual blocks, attention, down- and upsampling."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce, repeat
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from cvvae_jax import split_frames
from cvvae_jax.config import Remat
from cvvae_jax.models.conv import Conv, ConvKind, UpsamplingConv, WindowPadding, window_pads
from cvvae_jax.models.conv_forms import are_defined
from cvvae_jax.models.remat import run_block

# A score matrix of 4096 x 4096 float32 is 64 MB a frame; frames above that are attended to in
# pieces, one at a time. Smaller ones go together, up to 1 GiB of scores.
ATTENTION_PIECE = 4096
SCORE_BUDGET = 2**28


@dataclasses.dataclass(frozen=True)
class Style:
    """What all layers of one network share: kinds of convolution, normalization and number
    types."""

    conv: ConvKind
    upsampling: ConvKind
    half_3d: bool
    norm_groups: int
    norm_eps: float
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @property
    def second_conv(self) -> ConvKind:
        """Kind of the second convolution of a residual block."""
        return self.conv.per_frame() if self.half_3d else self.conv

    @property
    def dtypes(self) -> dict[str, jnp.dtype]:
        """The number types as keyword arguments of a layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


class GroupNorm(nnx.Module):
    """Normalization over time, height, width and the channels of a group; statistics in float32.

    The variance is the mean of squared differences: the difference of squares loses all digits
    where the mean is large.
    """

    def __init__(self, channels: int, *, style: Style):
        if channels % style.norm_groups:
            raise ValueError(f"{channels} channels can't be split into {style.norm_groups} groups.")
        self.scale = nnx.Param(jnp.ones((channels,), style.param_dtype))
        self.bias = nnx.Param(jnp.zeros((channels,), style.param_dtype))
        self.groups, self.eps, self.dtype = style.norm_groups, style.norm_eps, style.dtype

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        video = video.astype(jnp.float32)
        centered = video - self._group_mean(video)
        variance = self._group_mean(jnp.square(centered))
        scale, bias = (p[...].reshape(1, 1, 1, 1, -1) for p in (self.scale, self.bias))
        normal = centered * lax.rsqrt(variance + self.eps)
        return (normal * scale + bias).astype(self.dtype)

    def _group_mean(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b 1 1 1 c"]:
        """Of every channel's group.

        Only means of single channels are put in groups: as a video of (group, channel of the group)
        would be padded to many times its size on a TPU, whose last axis is 128 wide.
        """
        means = split_frames.mean_over_video(video)
        grouped = reduce(means, "b (g k) -> b g", "mean", g=self.groups)
        return repeat(grouped, "b g -> b 1 1 1 (g k)", k=means.shape[1] // self.groups)


class ResBlock(nnx.Module):
    """Norm, SiLU, conv, twice, beside a shortcut: `ResnetBlock` in the official code and
    diffusers."""

    def __init__(self, inputs: int, outputs: int, *, style: Style, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(inputs, style=style)
        self.conv1 = Conv(inputs, outputs, kind=style.conv, **style.dtypes, rngs=rngs)
        self.norm2 = GroupNorm(outputs, style=style)
        self.conv2 = Conv(outputs, outputs, kind=style.second_conv, **style.dtypes, rngs=rngs)
        if inputs != outputs:
            self.conv_shortcut = nnx.Linear(inputs, outputs, **style.dtypes, rngs=rngs)

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w d"]:
        hidden = self.conv1(jax.nn.silu(self.norm1(video)))
        hidden = self.conv2(jax.nn.silu(self.norm2(hidden)))
        shortcut = self.conv_shortcut(video) if hasattr(self, "conv_shortcut") else video
        return shortcut + hidden


class SpatialAttention(nnx.Module):
    """One head of attention over the positions of every frame, with a residual."""

    def __init__(self, channels: int, *, style: Style, rngs: nnx.Rngs):
        self.group_norm = GroupNorm(channels, style=style)
        self.to_q, self.to_k, self.to_v, self.to_out = (
            nnx.Linear(channels, channels, **style.dtypes, rngs=rngs) for _ in range(4)
        )

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        return video + self.attend(video)

    def attend(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """The attention without its residual."""
        b, _, h, w, _ = video.shape
        frames = self.group_norm(rearrange(video, "b t h w c -> (b t) 1 h w c"))
        tokens = rearrange(frames, "(b t) 1 h w c -> b t (h w) c", b=b)
        keys, values = (
            split_frames.gather_positions(layer(tokens)) for layer in (self.to_k, self.to_v)
        )
        tokens = attention(self.to_q(tokens), keys, values)
        return rearrange(self.to_out(tokens), "b t (h w) c -> b t h w c", h=h, w=w)


class SpatialTemporalAttention(SpatialAttention):
    """The SD2.1 decoder's attention: over every frame, then over time at every position.

    The temporal part takes the spatial part's output without a residual in between, as the official
    `spatial-temporal-xformer` does.
    """

    def __init__(self, channels: int, *, style: Style, rngs: nnx.Rngs):
        super().__init__(channels, style=style, rngs=rngs)
        self.norm_t = nnx.LayerNorm(
            channels, epsilon=1e-5, use_fast_variance=False, **style.dtypes, rngs=rngs
        )
        self.q_t, self.k_t, self.v_t, self.proj_out_t = (
            nnx.Linear(channels, channels, **style.dtypes, rngs=rngs) for _ in range(4)
        )

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        _, _, h, w, _ = video.shape
        tokens = self.norm_t(rearrange(self.attend(video), "b t h w c -> b (h w) t c"))
        tokens = attention(self.q_t(tokens), self.k_t(tokens), self.v_t(tokens))
        return video + rearrange(self.proj_out_t(tokens), "b (h w) t c -> b t h w c", h=h, w=w)


def attention(
    query: Float[Array, "b n q c"], key: Float[Array, "b n k c"], value: Float[Array, "b n k c"]
) -> Float[Array, "b n q c"]:
    """One head of softmax attention within each of n frames, scores and softmax in float32; long
    queries are taken in pieces, many frames in groups.

    Heads are as wide as the network (512 channels), which fused kernels don't take; this way
    memory for scores stays at the larger of `ATTENTION_PIECE` x k and `SCORE_BUDGET` numbers for
    every video of the batch, in the backward pass too. The batch itself is never taken in groups:
    where devices share it, that would send it from one to the other.
    """
    frames, length = query.shape[1:3]
    pieces = math.ceil(length / ATTENTION_PIECE)
    size = math.ceil(length / pieces)
    group = 1 if pieces > 1 else max(1, SCORE_BUDGET // (length * key.shape[2]))
    if frames * pieces <= group:
        return _attend(query, key, value)

    def attend_frame(frame):
        parts, k, v = frame
        return lax.map(jax.checkpoint(lambda part: _attend(part, k, v)), parts)

    padded = jnp.pad(query, ((0, 0), (0, 0), (0, pieces * size - length), (0, 0)))
    parts = rearrange(padded, "b n (p q) c -> n p b q c", p=pieces)
    key, value = (rearrange(x, "b n k c -> n b k c") for x in (key, value))
    out = lax.map(attend_frame, (parts, key, value), batch_size=group)
    return rearrange(out, "n p b q c -> b n (p q) c")[:, :, :length]


def _attend(query, key, value):
    scores = jnp.einsum("...qc,...kc->...qk", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1).astype(value.dtype)
    return jnp.einsum("...qk,...kc->...qc", weights, value)


class MidBlock(nnx.Module):
    """The middle of a network: residual block, attention, residual block."""

    def __init__(
        self,
        channels: int,
        *,
        attention: type[SpatialAttention] | None,
        style: Style,
        rngs: nnx.Rngs,
    ):
        self.resnets = nnx.List(
            [ResBlock(channels, channels, style=style, rngs=rngs) for _ in range(2)]
        )
        layers = [attention(channels, style=style, rngs=rngs)] if attention else []
        self.attentions = nnx.List(layers)

    def __call__(
        self, video: Float[Array, "b t h w c"], *, remat: Remat = "none"
    ) -> Float[Array, "b t h w c"]:
        for layer in (self.resnets[0], *self.attentions, self.resnets[1]):
            video = run_block(layer, video, remat=remat)
        return video


def norm_silu(norm: GroupNorm, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
    """What stands before the last convolution of a network."""
    return jax.nn.silu(norm(video))


def per_frame(network: Callable, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w2 d"]:
    """A network or layer on every frame alone: frames become the batch, so that no norm sees two at
    once."""
    b, t = video.shape[:2]
    frames = network(video.reshape(b * t, 1, *video.shape[2:]))
    return frames.reshape(b, t, *frames.shape[2:])


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

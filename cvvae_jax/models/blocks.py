"""Building blocks of networks: normalization, residual blocks, attention, down- and upsampling."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from cvvae_jax import split_frames
from cvvae_jax.config import ImageVAEConfig, Remat, VideoVAEConfig
from cvvae_jax.models.conv import Conv, ConvKind, UpsamplingConv
from cvvae_jax.models.conv_forms import uses_reference_convolutions
from cvvae_jax.models.remat import run_block

ATTENTION_PIECE = 4096
"""Most queries of a frame that attention takes at once: 4096 x 4096 scores in float32 are 64 MB."""
SCORE_BUDGET = 2**28
"""Most scores of several frames that attention takes at once: 1 GiB in float32."""


@dataclasses.dataclass(frozen=True)
class Style:
    """Options that all layers of a network share."""

    conv: ConvKind
    upsampling: ConvKind
    half_3d: bool
    norm_groups: int
    norm_eps: float
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @property
    def second_conv(self) -> ConvKind:
        """Kind of a residual block's second convolution: 2-D with `half_3d`."""
        return self.conv.per_frame() if self.half_3d else self.conv

    @property
    def dtypes(self) -> dict[str, jnp.dtype]:
        """Both dtypes as keyword arguments of a layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


def style_dtypes(config) -> dict[str, jnp.dtype]:
    """The dtypes of a model's config as arguments of a `Style`; those of a VAE's encoder."""
    return {"dtype": jnp.dtype(config.dtype), "param_dtype": jnp.dtype(config.param_dtype)}


def decoder_dtypes(config: ImageVAEConfig | VideoVAEConfig) -> dict[str, jnp.dtype]:
    """The dtypes of a VAE's decoder as arguments of a `Style`."""
    return style_dtypes(config) | {"dtype": jnp.dtype(config.decoder_dtype or config.dtype)}


class GroupNorm(nnx.Module):
    """Group norm over time, height, width and the channels of a group, computed in float32.

    The variance is the mean of squared differences from the mean, since a difference of mean
    squares loses all digits where the mean is large.
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
        """The mean of every channel's group, one value for each channel.

        Means of single channels are averaged. Reshaping the video itself to (.., group, channel of
        the group) would take many times its memory on a TPU, which pads the last axis to 128.
        """
        means = split_frames.mean_over_video(video)
        grouped = reduce(means, "b (g k) -> b g", "mean", g=self.groups)
        return repeat(grouped, "b g -> b 1 1 1 (g k)", k=means.shape[1] // self.groups)


class ResBlock(nnx.Module):
    """Twice norm, SiLU and convolution, plus a shortcut: `ResnetBlock` in the official code."""

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
    """Single-head attention over the positions of every frame, plus its input."""

    def __init__(self, channels: int, *, style: Style, rngs: nnx.Rngs):
        self.group_norm = GroupNorm(channels, style=style)
        self.to_q, self.to_k, self.to_v, self.to_out = (
            nnx.Linear(channels, channels, **style.dtypes, rngs=rngs) for _ in range(4)
        )

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        return video + self.attend(video)

    def attend(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """The attention without the input added."""
        b, _, h, w, _ = video.shape
        frames = self.group_norm(rearrange(video, "b t h w c -> (b t) 1 h w c"))
        tokens = rearrange(frames, "(b t) 1 h w c -> b t (h w) c", b=b)
        keys, values = (
            split_frames.gather_positions(layer(tokens)) for layer in (self.to_k, self.to_v)
        )
        tokens = attention(self.to_q(tokens), keys, values)
        return rearrange(self.to_out(tokens), "b t (h w) c -> b t h w c", h=h, w=w)


class SpatialTemporalAttention(SpatialAttention):
    """Attention over the positions of every frame, then over the frames at every position, plus
    the input: that of the SD2.1 decoder.

    Between the two nothing is added, as in the official `spatial-temporal-xformer`.
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
    """Single-head softmax attention within each of n frames, scores and softmax in float32.

    The head is as wide as the network (512 channels), which fused kernels don't support. To bound
    memory, frames are taken in groups, and frames with many queries in pieces: for every video of
    the batch, scores take at most the larger of `ATTENTION_PIECE` x k and `SCORE_BUDGET` numbers,
    in the backward pass too. The batch isn't taken in groups, since it may be split over devices,
    which would have to send it to each other.
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
    """The middle of a network: a residual block, attention if any, a residual block."""

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
    """Norm and SiLU, as before the last convolution of a network."""
    return jax.nn.silu(norm(video))


def per_frame(network: Callable, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w2 d"]:
    """A network or layer applied to every frame alone, by making frames the batch: norms, too, see
    one frame at a time."""
    b, t = video.shape[:2]
    frames = network(video.reshape(b * t, 1, *video.shape[2:]))
    return frames.reshape(b, t, *frames.shape[2:])


class Downsample(nnx.Module):
    """A convolution that halves height and width, and with `time_stride` 2 time: 1 + 2k frames
    become 1 + k.

    `padding` is one pixel after (`asymmetric`) or one on both sides (`symmetric`).
    """

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
    """Upsampling and a convolution, which double height and width, and with `time_stride` 2 time: t
    frames become 2t - 1.

    With `time_stride` 2 the convolution has twice the channels, which are two frames. The first
    frame of the video is dropped, since the first latent frame stands for one frame alone. Its
    padding in time is `style.upsampling`'s, which may differ from the other convolutions'.
    """

    def __init__(self, channels: int, *, time_stride: int, style: Style, rngs: nnx.Rngs):
        self.conv = UpsamplingConv(
            channels, channels * time_stride, kind=style.upsampling, **style.dtypes, rngs=rngs
        )
        self.channels, self.time_stride = channels, time_stride

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 c"]:
        if self.time_stride == 1:
            return self.conv(video)
        if video.shape[1] == 1 and not uses_reference_convolutions():
            return self.conv(video, outputs=slice(self.channels, None))
        video = self.conv(video)
        return rearrange(video, "b t h w (n c) -> b (t n) h w c", n=2)[:, 1:]


def pool(
    video: Float[Array, "b t h w c"],
    *,
    window: tuple[int, int, int],
    reduction: Literal["max", "mean"],
) -> Float[Array, "b t2 h2 w2 c"]:
    """One value for every (time, height, width) window without overlap; a rest that doesn't fill a
    window is left out.

    Computed as a reduction over axes: on a CPU its gradient takes a quarter of the time of that of
    `lax.reduce_window`.
    """
    t, h, w = (size // n * n for size, n in zip(video.shape[1:4], window, strict=True))
    return reduce(
        video[:, :t, :h, :w],
        "b (t i) (h j) (w k) c -> b t h w c",
        reduction,
        **dict(zip("ijk", window, strict=True)),
    )

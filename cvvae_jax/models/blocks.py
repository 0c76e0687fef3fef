"""What networks are built of: group normalization, the residual block, attention and the middle of
a network."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from cvvae_jax import rows
from cvvae_jax.config import Remat
from cvvae_jax.models.conv import Conv, ConvKind
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
        means = rows.mean(video)
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
        keys, values = rows.gather(self.to_k(tokens)), rows.gather(self.to_v(tokens))
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

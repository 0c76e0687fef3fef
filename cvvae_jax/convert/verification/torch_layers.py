"""Layers of the official networks in plain PyTorch, by official tensor names.

Written from the official architectures alone: nothing here knows how our models are built or named,
or a conversion could not be checked against it. Arrays are PyTorch's: (batch, channel, time,
height, width).
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

TimePadding = Literal["causal", "zero", "edge"]


@dataclasses.dataclass(frozen=True)
class Names:
    """How a style of naming calls the parts of an autoencoder."""

    down: str
    up: str
    lowest_up_first: bool
    """Whether the decoder's levels count from its lowest resolution."""
    block: str
    shortcut: str
    downsample: str
    upsample: str
    middle: tuple[str, str, str]
    """First residual block, attention, second residual block."""
    attention: tuple[str, str, str, str, str]
    """Norm, query, key, value, projection."""
    norm_out: str


LATENT_DIFFUSION = Names(
    down="down",
    up="up",
    lowest_up_first=False,
    block="block",
    shortcut="nin_shortcut",
    downsample="downsample.conv",
    upsample="upsample.conv",
    middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
    attention=("norm", "q", "k", "v", "proj_out"),
    norm_out="norm_out",
)
DIFFUSERS = Names(
    down="down_blocks",
    up="up_blocks",
    lowest_up_first=True,
    block="resnets",
    shortcut="conv_shortcut",
    downsample="downsamplers.0.conv",
    upsample="upsamplers.0.conv",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    attention=("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
    norm_out="conv_norm_out",
)


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers of one network. A convolution is 2-D or 3-D by the axes of its weight."""

    tensors: Mapping[str, Tensor]
    """Official tensors in float32, by today's names and without a prefix."""

    names: Names
    groups: int
    """Groups of every group norm."""

    eps: float
    """Epsilon of every group norm."""

    time: TimePadding
    """What 3-D convolutions see beyond the ends: the first frame twice before the start; a black
    frame, or the nearest one, on both sides."""

    space: Literal["zero", "edge"]
    """What 3-D convolutions see beyond the frame: black, or the nearest pixel. 2-D ones see
    black."""

    def has(self, layer: str) -> bool:
        """Whether there is a layer of this name."""
        return f"{layer}.weight" in self.tensors

    def norm(self, name: str, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Group norm over time, height and width at once."""
        return functional.group_norm(x, self.groups, *self._layer(name), self.eps)

    def pointwise(self, name: str, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b d *s"]:
        """A linear layer or a convolution of one tap, on axis 1."""
        weight, bias = self._layer(name)
        return functional.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)

    def conv(
        self,
        name: str,
        x: Float[Tensor, "b c t h w"],
        *,
        strides: tuple[int, int, int] = (1, 1, 1),
        pads: tuple[int, int] | None = None,
        time: TimePadding | None = None,
    ) -> Float[Tensor, "b d t2 h2 w2"]:
        """A convolution per frame or a 3-D one.

        `pads` are the pixels before and after, by default as many as keep the size; `time` is what
        this one sees beyond the ends, by default what all see.
        """
        weight, bias = self._layer(name)
        before, after = pads or (weight.shape[-1] // 2,) * 2
        around = (before, after, before, after)
        if weight.ndim == 4:
            frames = functional.pad(rearrange(x, "b c t h w -> (b t) c h w"), around)
            frames = functional.conv2d(frames, weight, bias, stride=strides[1:])
            return rearrange(frames, "(b t) c h w -> b c t h w", b=len(x))
        x = pad_time(x, time or self.time)
        mode = "replicate" if self.space == "edge" else "constant"
        x = functional.pad(x, (*around, 0, 0), mode=mode)
        return functional.conv3d(x, weight, bias, stride=strides)

    def res_block(self, name: str, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
        """Norm, SiLU, convolution, twice, and the shortcut."""
        hidden = self.conv(f"{name}.conv1", functional.silu(self.norm(f"{name}.norm1", x)))
        hidden = self.conv(f"{name}.conv2", functional.silu(self.norm(f"{name}.norm2", hidden)))
        return self.shortcut(name, x) + hidden

    def shortcut(self, name: str, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
        """The input of a residual block, brought to the channels of its result."""
        layer = f"{name}.{self.names.shortcut}"
        return self.pointwise(layer, x) if self.has(layer) else x

    def attention(self, name: str, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Attention over the positions of every frame, then over time where the tensors have it;
        nothing lies between the two but a layer norm."""
        norm, query, key, value, projection = (f"{name}.{part}" for part in self.names.attention)
        _, _, t, _, w = x.shape
        tokens = rearrange(self.norm(norm, single_frames(x)), "n c 1 h w -> n c (h w)")
        tokens = self.pointwise(projection, self._attend((query, key, value), tokens))
        out = rearrange(tokens, "(b t) c (h w) -> b c t h w", t=t, w=w)
        if self.has(f"{name}.q_t"):
            out = self._attention_over_time(name, out)
        return x + out

    def _attention_over_time(self, name: str, x: Tensor) -> Tensor:
        _, c, _, h, w = x.shape
        tokens = rearrange(x, "b c t h w -> (b h w) t c")
        tokens = functional.layer_norm(tokens, (c,), *self._layer(f"{name}.norm_t"), 1e-5)
        queries = tuple(f"{name}.{part}" for part in ("q_t", "k_t", "v_t"))
        tokens = self._attend(queries, tokens.movedim(-1, 1))
        tokens = self.pointwise(f"{name}.proj_out_t", tokens)
        return rearrange(tokens, "(b h w) c t -> b c t h w", h=h, w=w)

    def _attend(self, layers: tuple[str, ...], tokens: Tensor) -> Tensor:
        """One head of attention, on (batch, channel, token)."""
        query, key, value = (self.pointwise(layer, tokens).movedim(1, -1) for layer in layers)
        scores = query @ key.mT * query.shape[-1] ** -0.5
        return (scores.softmax(-1) @ value).movedim(-1, 1)

    def _layer(self, name: str) -> tuple[Tensor, Tensor]:
        return self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]


def pad_time(x: Float[Tensor, "b c t h w"], padding: TimePadding) -> Float[Tensor, "b c t2 h w"]:
    """Two frames more, for a convolution of three taps."""
    match padding:
        case "causal":
            return functional.pad(x, (0, 0, 0, 0, 2, 0), mode="replicate")
        case "edge":
            return functional.pad(x, (0, 0, 0, 0, 1, 1), mode="replicate")
        case "zero":
            return functional.pad(x, (0, 0, 0, 0, 1, 1))


def double_size(x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h2 w2"]:
    """Every pixel four times."""
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def single_frames(x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "n c 1 h w"]:
    """Every frame a video of its own."""
    return rearrange(x, "b c t h w -> (b t) c 1 h w")


def whole_videos(
    frames: Float[Tensor, "n c 1 h w"], batch: int
) -> Float[Tensor, "{batch} c t h w"]:
    """The inverse of `single_frames`."""
    return rearrange(frames, "(b t) c 1 h w -> b c t h w", b=batch)


def leaky(x: Tensor) -> Tensor:
    """The activation of the discriminator."""
    return functional.leaky_relu(x, 0.2)


def halve(x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
    """Averages over two frames, rows and columns; the first of an odd number of frames counts
    twice."""
    if x.shape[2] % 2:
        x = torch.cat([x[:, :, :1], x], 2)
    return functional.avg_pool3d(x, 2)

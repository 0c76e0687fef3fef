"""The 3-D discriminator of patches of videos: `NLayerDiscriminator3D` in the official code."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax.config import DiscriminatorConfig, Remat
from cvvae_jax.models.blocks import GroupNorm, Style, pool, style_dtypes
from cvvae_jax.models.conv import Conv, ConvKind
from cvvae_jax.models.padding import pad_time
from cvvae_jax.models.remat import run, run_block, run_nested

UNUSED_INPUTS = 512
"""Input channels of `temb_proj`."""
_initializer = nnx.initializers.normal(0.02)


class DiscriminatorBlock(nnx.Module):
    """Twice norm, SiLU and convolution, plus a shortcut; with `pooled`, both paths are averaged
    over 2 x 2 x 2 windows."""

    def __init__(self, inputs: int, outputs: int, *, pooled: bool, style: Style, rngs: nnx.Rngs):
        init = {"kernel_init": _initializer, **style.dtypes, "rngs": rngs}
        self.norm1 = GroupNorm(inputs, style=style)
        self.conv1 = Conv(inputs, outputs, kind=style.conv, **init)
        # Never used: the official block comes from a diffusion model and takes the embedding of a
        # time step. Official files hold the tensors, and must be the same when read and written.
        self.temb_proj = nnx.Linear(UNUSED_INPUTS, outputs, **style.dtypes, rngs=rngs)
        self.norm2 = GroupNorm(outputs, style=style)
        self.conv2 = Conv(outputs, outputs, kind=style.second_conv, **init)
        if inputs != outputs:
            self.conv_shortcut = nnx.Linear(inputs, outputs, **init)
        self.pooled = pooled

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 d"]:
        hidden = self._pool(self.conv1(jax.nn.silu(self.norm1(video))))
        hidden = self.conv2(jax.nn.silu(self.norm2(hidden)))
        shortcut = self._pool(video)
        if hasattr(self, "conv_shortcut"):
            shortcut = self.conv_shortcut(shortcut)
        return shortcut + hidden

    def _pool(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 c"]:
        if not self.pooled:
            return video
        if video.shape[1] % 2:
            video = pad_time(video, (1, 0), mode="edge")
        return pool(video, window=(2, 2, 2), reduction="mean")


class Discriminator(nnx.Module):
    """A logit for every patch of a video in [-1, 1], high where the patch looks real: (b, t, h, w,
    3) -> (b, t / 8, h / 8, w / 8, 1) with the official layers, t / 8 rounded up.

    `conv_in`, then every block with its norm, then `conv_out`. Built from a `DiscriminatorConfig`,
    with random weights.
    """

    def __init__(self, config: DiscriminatorConfig, *, rngs: nnx.Rngs):
        self.config = config
        style = Style(
            conv=ConvKind("centered", temporal_padding="zero", spatial_padding="zero"),
            upsampling=ConvKind("none"),
            half_3d=config.half_3d,
            norm_groups=config.norm_groups,
            norm_eps=1e-5,
            **style_dtypes(config),
        )
        conv = {"kind": style.conv, "kernel_init": _initializer, **style.dtypes, "rngs": rngs}
        widths = _widths(config)
        self.conv_in = Conv(3, widths[0], strides=(2, 2, 2), **conv)
        self.blocks, self.norms = nnx.List(), nnx.List()
        for i in range(config.layers):
            pooled = i < config.layers - 2
            self.blocks.append(
                DiscriminatorBlock(widths[i], widths[i + 1], pooled=pooled, style=style, rngs=rngs)
            )
            self.norms.append(GroupNorm(widths[i + 1], style=style))
        self.conv_out = Conv(widths[-1], 1, **conv)

    def __call__(
        self, video: Float[Array, "b t h w 3"], *, remat: Remat = "none"
    ) -> Float[Array, "b t2 h2 w2 1"]:
        hidden = run(_activated, self.conv_in, video, remat=remat)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            hidden = run_nested(_level, block, norm, hidden, remat=remat)
        return run_block(self.conv_out, hidden, remat=remat)


def _level(block, norm, video, *, remat):
    return run(_activated, norm, run_block(block, video, remat=remat), remat=remat)


def _activated(layer, video):
    return jax.nn.leaky_relu(layer(video), 0.2)


def _widths(config: DiscriminatorConfig) -> list[int]:
    """Channels after the first convolution and after every block, at most 8 times the base."""
    pooled = [2**n for n in range(config.layers - 1)]
    factors = [*pooled, 2**config.layers, 2**config.layers]
    return [config.base_channels * min(factor, 8) for factor in factors]

"""Stable Video Diffusion's VAE: `AutoencoderKLTemporalDecoder` in diffusers.

The encoder is an image VAE's and sees one frame at a time; the decoder sees all frames.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax.config import Remat, SVDVAEConfig
from cvvae_jax.models.autoencoder import VAE, Encoder, Level
from cvvae_jax.models.blocks import (
    GroupNorm,
    ResBlock,
    SpatialAttention,
    Style,
    Upsample,
    per_frame,
    style_dtypes,
)
from cvvae_jax.models.conv import Conv, ConvKind
from cvvae_jax.models.inputs import LatentsLike
from cvvae_jax.models.remat import run, run_block, run_level

ALONG_TIME = ConvKind("centered", temporal_padding="zero", spatial_taps=1)
# The epsilon of norms over all frames; norms of single frames have 1e-6, as in the image VAE.
TEMPORAL_EPS = 1e-5


class TimeMixer(nnx.Module):
    """A learned blend of two videos: `AlphaBlender` in diffusers, as its decoder uses it."""

    def __init__(self, *, style: Style):
        self.mix_factor = nnx.Param(jnp.zeros((1,), style.param_dtype))
        self.dtype = style.dtype

    def __call__(
        self, spatial: Float[Array, "b t h w c"], temporal: Float[Array, "b t h w c"]
    ) -> Float[Array, "b t h w c"]:
        # The share of the temporal part; in SVD's U-Net it is the spatial part's.
        share = jax.nn.sigmoid(self.mix_factor[...].astype(jnp.float32))
        share = share.astype(self.dtype).reshape(1, 1, 1, 1, 1)
        return (1 - share) * spatial + share * temporal


class SpatioTemporalResBlock(nnx.Module):
    """A residual block on single frames, then one along time, blended with the input of the latter:
    `SpatioTemporalResBlock` in diffusers."""

    def __init__(self, inputs: int, outputs: int, *, style: Style, rngs: nnx.Rngs):
        along_time = dataclasses.replace(
            style, conv=ALONG_TIME, half_3d=False, norm_eps=TEMPORAL_EPS
        )
        self.spatial_res_block = ResBlock(inputs, outputs, style=style, rngs=rngs)
        self.temporal_res_block = ResBlock(outputs, outputs, style=along_time, rngs=rngs)
        self.time_mixer = TimeMixer(style=style)

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w d"]:
        spatial = per_frame(self.spatial_res_block, video)
        return self.time_mixer(spatial, self.temporal_res_block(spatial))


class TemporalMidBlock(nnx.Module):
    """The middle of the decoder: `MidBlockTemporalDecoder` in diffusers.

    It has one attention layer, and as many residual blocks as a level of the encoder: two in the
    published model.
    """

    def __init__(self, channels: int, *, blocks: int, style: Style, rngs: nnx.Rngs):
        self.resnets = nnx.List(
            [
                SpatioTemporalResBlock(channels, channels, style=style, rngs=rngs)
                for _ in range(blocks)
            ]
        )
        self.attentions = nnx.List([SpatialAttention(channels, style=style, rngs=rngs)])

    def __call__(
        self, video: Float[Array, "b t h w c"], *, remat: Remat = "none"
    ) -> Float[Array, "b t h w c"]:
        video = run_block(self.resnets[0], video, remat=remat)
        # As in diffusers: the attention layer is followed by one block. With a single block the
        # attention isn't reached, and of three or more blocks only two are.
        for attention, block in zip(self.attentions, self.resnets[1:], strict=False):
            video = run_block(attention, video, remat=remat)
            video = run_block(block, video, remat=remat)
        return video


class TemporalDecoder(nnx.Module):
    """Latents to a video, (b, t, y, x, z) -> (b, t, 8y, 8x, 3): `TemporalDecoder` in diffusers."""

    def __init__(self, config: SVDVAEConfig, *, style: Style, rngs: nnx.Rngs):
        channels = config.block_channels[::-1]
        conv = {"kind": style.conv, **style.dtypes, "rngs": rngs}
        self.conv_in = Conv(config.latent_channels, channels[0], **conv)
        self.mid_block = TemporalMidBlock(
            channels[0], blocks=config.blocks_per_level, style=style, rngs=rngs
        )
        self.up_blocks = nnx.List()
        for i, width in enumerate(channels):
            up = None
            if i < len(channels) - 1:
                up = Upsample(width, time_stride=1, style=style, rngs=rngs)
            widths = (channels[max(i - 1, 0)], *(width,) * (config.blocks_per_level + 1))
            self.up_blocks.append(
                Level(widths, up=up, block=SpatioTemporalResBlock, style=style, rngs=rngs)
            )
        self.conv_norm_out = GroupNorm(channels[-1], style=style)
        self.conv_out = Conv(channels[-1], 3, **conv)
        self.time_conv_out = Conv(3, 3, **conv | {"kind": ALONG_TIME})

    def hidden(
        self, latents: Float[Array, "b t y x z"], *, remat: Remat = "none"
    ) -> Float[Array, "b t h w c"]:
        """The input of `conv_out`."""
        hidden = run_block(self.conv_in, latents, remat=remat)
        for level in (self.mid_block, *self.up_blocks):
            hidden = run_level(level, hidden, remat=remat)
        return run(_norm_silu_per_frame, self.conv_norm_out, hidden, remat=remat)


def _norm_silu_per_frame(norm, video):
    return jax.nn.silu(per_frame(norm, video))


class SVDVAE(VAE):
    """A VAE that encodes every frame alone and decodes all frames of a video together: (b, t, 8y,
    8x, 3) <-> (b, t, y, x, z), for any t.

    Built from an `SVDVAEConfig`, with random weights. Latents are those of the image VAE of Stable
    Diffusion 1.x and 2.x.
    """

    def __init__(self, config: SVDVAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        style = Style(
            conv=ConvKind("none"),
            upsampling=ConvKind("none"),
            half_3d=True,
            norm_groups=config.norm_groups,
            norm_eps=1e-6,
            **style_dtypes(config),
        )
        self.encoder = Encoder(
            channels=config.block_channels,
            blocks=config.blocks_per_level,
            latent_channels=config.latent_channels,
            temporal_strides=(1,) * (len(config.block_channels) - 1),
            downsample_padding="asymmetric",
            attention=SpatialAttention,
            style=style,
            rngs=rngs,
        )
        self.decoder = TemporalDecoder(config, style=style, rngs=rngs)
        z = config.latent_channels
        self.quant_conv = nnx.Linear(2 * z, 2 * z, **style.dtypes, rngs=rngs)

    def decode(self, latents: LatentsLike, *, remat: Remat = "none") -> Float[Array, "b t h w 3"]:
        """As `VAE.decode`, with one more convolution along time after `decoder.conv_out`."""
        frames = super().decode(latents, remat=remat)
        return run_block(self.decoder.time_conv_out, frames, remat=remat)

    def _moments(
        self, video: Float[Array, "b t h w 3"], *, remat: Remat
    ) -> Float[Array, "b t y x zz"]:
        return self.quant_conv(per_frame(functools.partial(self.encoder, remat=remat), video))

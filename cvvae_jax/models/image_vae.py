"""Stable Diffusion's image VAE: `AutoencoderKL` in diffusers."""

import dataclasses
import functools

from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax.config import ImageVAEConfig, Remat
from cvvae_jax.models.autoencoder import VAE, Decoder, Encoder
from cvvae_jax.models.blocks import SpatialAttention, Style, decoder_dtypes, per_frame, style_dtypes
from cvvae_jax.models.conv import ConvKind

_SD = ImageVAEConfig()
PRESETS: dict[str, ImageVAEConfig] = {
    "sd": _SD,
    "sdxl": dataclasses.replace(_SD, scaling_factor=0.13025),
    "sd3": dataclasses.replace(
        _SD, latent_channels=16, quant_conv=False, scaling_factor=1.5305, shift_factor=0.0609
    ),
    "flux": dataclasses.replace(
        _SD, latent_channels=16, quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159
    ),
}
"""The VAEs of Stable Diffusion 1.x and 2.x, SDXL, Stable Diffusion 3 and FLUX.1."""


class ImageVAE(VAE):
    """A VAE that encodes and decodes every frame alone: (b, t, 8y, 8x, 3) <-> (b, t, y, x, z).

    Built from an `ImageVAEConfig`, with random weights; `cvvae_jax.load` reads trained ones.
    For a video VAE's latents, `decode` is image mode: one frame for every latent frame.
    """

    def __init__(self, config: ImageVAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        style = Style(
            conv=ConvKind("none"),
            upsampling=ConvKind("none"),
            half_3d=True,
            norm_groups=config.norm_groups,
            norm_eps=config.norm_eps,
            **style_dtypes(config),
        )
        decoder_style = dataclasses.replace(style, **decoder_dtypes(config))
        shape = {
            "channels": config.block_channels,
            "blocks": config.blocks_per_level,
            "latent_channels": config.latent_channels,
            "temporal_strides": (1,) * (len(config.block_channels) - 1),
            "attention": SpatialAttention if config.mid_attention else None,
        }
        self.encoder = Encoder(**shape, downsample_padding="asymmetric", style=style, rngs=rngs)
        self.decoder = Decoder(**shape, style=decoder_style, rngs=rngs)
        if config.quant_conv:
            z = config.latent_channels
            self.quant_conv = nnx.Linear(2 * z, 2 * z, **style.dtypes, rngs=rngs)
            self.post_quant_conv = nnx.Linear(z, z, **decoder_style.dtypes, rngs=rngs)

    def decoder_features(
        self, latents: Float[Array, "b t y x z"], names: tuple[str, ...], *, remat: Remat = "none"
    ) -> list[Float[Array, "b t _ _ _"]]:
        """What some layers of the decoder make of every latent frame, each seen alone.

        Args:
            latents: unscaled.
            names: of `decoder.layers`; the outputs come in the order that the layers have there,
                and the layers behind the last of them aren't computed.
            remat: see `VAE`.
        """
        b, t = latents.shape[:2]
        latents = self.post_quant_conv(latents) if self.config.quant_conv else latents
        frames = latents.reshape(b * t, 1, *latents.shape[2:])
        found = self.decoder.outputs_of(frames, names, remat=remat)
        return [output.reshape(b, t, *output.shape[2:]) for output in found]

    def _moments(
        self, video: Float[Array, "b t h w 3"], *, remat: Remat
    ) -> Float[Array, "b t y x zz"]:
        moments = per_frame(functools.partial(self.encoder, remat=remat), video)
        return self.quant_conv(moments) if self.config.quant_conv else moments

    def _hidden(
        self, latents: Float[Array, "b t y x z"], *, remat: Remat
    ) -> Float[Array, "b t h w c"]:
        latents = self.post_quant_conv(latents) if self.config.quant_conv else latents
        return per_frame(functools.partial(self.decoder.hidden, remat=remat), latents)

"""The compatible video VAE (CV-VAE) and the presets of its official families."""

import dataclasses
from typing import Literal

from flax import nnx

from cvvae_jax.config import ImageVAEConfig, VideoVAEConfig
from cvvae_jax.models.autoencoder import VAE, Decoder, Encoder, decoder_dtypes, style_dtypes
from cvvae_jax.models.blocks import SpatialAttention, SpatialTemporalAttention, Style
from cvvae_jax.models.conv import ConvKind

_SD21 = VideoVAEConfig()
_SD3 = VideoVAEConfig(
    latent_channels=16,
    norm_eps=1e-6,
    spatial_padding="edge",
    temporal_padding="edge",
    downsample_padding="symmetric",
    decoder_attention="spatial",
    scaling_factor=1.5305,
    shift_factor=0.0609,
)
PRESETS: dict[str, VideoVAEConfig] = {
    "sd21": _SD21,
    "sd21_full3d": dataclasses.replace(_SD21, half_3d=False),
    "sd3": _SD3,
}
"""The official models: CV-VAE v1 and v1.1, the paper's "Ours (3D)", and CV-VAE-SD3."""

PresetName = Literal["sd21", "sd21_full3d", "sd3"]


def function_preserving(config: VideoVAEConfig, image: ImageVAEConfig) -> VideoVAEConfig:
    """The same model with the paddings, norms and attention of a 2-D Stable Diffusion VAE, `image`.

    Inflated from that image VAE it starts as exactly its function on images and on static videos;
    with the official paddings it only comes near. For new training runs, not for official weights.
    """
    return dataclasses.replace(
        config,
        norm_groups=image.norm_groups,
        norm_eps=image.norm_eps,
        mid_attention=image.mid_attention,
        spatial_padding="zero",
        temporal_padding="edge",
        downsample_padding="asymmetric",
        decoder_attention="spatial",
    )


class VideoVAE(VAE):
    """A video VAE whose latents an image VAE can decode: (b, 1 + 4k, 8y, 8x, 3) <-> (b, 1 + k, y,
    x, z).

    Built from a `VideoVAEConfig`, with random weights; `cvvae_jax.load` reads trained ones. Image
    mode is `decode` of one latent frame at a time, video mode `decode` of all.
    """

    def __init__(self, config: VideoVAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        shared = {
            "upsampling": ConvKind(
                "causal" if config.causal_upsampling else "centered", "edge", config.spatial_padding
            ),
            "half_3d": config.half_3d,
            "norm_groups": config.norm_groups,
            "norm_eps": config.norm_eps,
        }
        shape = {
            "channels": config.block_channels,
            "blocks": config.blocks_per_level,
            "latent_channels": config.latent_channels,
            "temporal_strides": config.temporal_strides,
        }
        decoder_attention = {
            "spatial": SpatialAttention,
            "spatial_temporal": SpatialTemporalAttention,
        }
        self.encoder = Encoder(
            **shape,
            downsample_padding=config.downsample_padding,
            attention=SpatialAttention if config.mid_attention else None,
            style=Style(
                conv=_conv_kind(config, causal=config.causal_encoder),
                **shared,
                **style_dtypes(config),
            ),
            rngs=rngs,
        )
        self.decoder = Decoder(
            **shape,
            attention=decoder_attention[config.decoder_attention] if config.mid_attention else None,
            style=Style(
                conv=_conv_kind(config, causal=config.causal_decoder),
                **shared,
                **decoder_dtypes(config),
            ),
            rngs=rngs,
        )


def _conv_kind(config: VideoVAEConfig, *, causal: bool) -> ConvKind:
    return ConvKind(
        "causal" if causal else "centered", config.temporal_padding, config.spatial_padding
    )

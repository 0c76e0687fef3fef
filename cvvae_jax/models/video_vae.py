"""The compatible video VAE (CV-VAE), its official presets, and its start from an image VAE."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax import parameter_paths
from cvvae_jax.config import ImageVAEConfig, VideoVAEConfig
from cvvae_jax.errors import UserError
from cvvae_jax.models.autoencoder import VAE, Decoder, Encoder, decoder_dtypes, style_dtypes
from cvvae_jax.models.blocks import SpatialAttention, SpatialTemporalAttention, Style
from cvvae_jax.models.conv import ConvKind
from cvvae_jax.models.image_vae import ImageVAE

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


Leaves = dict[str, Array]


def inflate(image_vae: ImageVAE, config: VideoVAEConfig, *, rngs: nnx.Rngs) -> VideoVAE:
    """A video VAE of `config` with the weights of an image VAE.

    Every 2-D kernel becomes one tap in time of the 3-D kernel, the others are zero: the last tap of
    a causal convolution, the middle one of a centered one; an upsampling that makes two frames
    makes the same one twice. The 1x1 convolutions around the latents are folded into their
    neighbors. Attention over time, which an image VAE lacks, starts as zero.

    With a config of `video_vae.function_preserving` the result equals the image VAE on images and
    static videos (up to the bias of `post_quant_conv`, which can't be folded where the border is
    padded with zeros); with the official paddings and epsilon it comes near.

    Raises:
        UserError: the two models differ in widths, depth, groups of norms or latent channels; all
            differences are listed.
    """
    video_vae = VideoVAE(config, rngs=rngs)
    source, target = (
        parameter_paths.flatten(_fold_quant_convs(image_vae)),
        parameter_paths.flatten(video_vae),
    )
    leaves = {
        path: _inflated(path, source.get(path), leaf, config) for path, leaf in target.items()
    }
    if problems := _differences(image_vae, source, config, target, leaves):
        raise UserError(
            f"the image VAE can't be inflated to this video VAE; {'; '.join(problems)}."
        )
    return parameter_paths.unflatten(video_vae, leaves)


def _inflated(path: str, source: Array | None, target: Array, config: VideoVAEConfig) -> Array:
    """The video VAE's array at `path`, from the image VAE's; of another shape if that can't be."""
    if source is None:
        return jnp.zeros_like(target) if "/proj_out_t/" in path else target
    if source.shape[-1] * 2 == target.shape[-1]:  # an upsampling that also doubles time
        source = jnp.concatenate([source, source], axis=-1)
    if source.shape == target.shape[1:]:
        tap = -1 if _is_causal(path, config) else 1
        source = jnp.zeros_like(target).at[tap].set(source.astype(target.dtype))
    return source.astype(target.dtype)


def _is_causal(path: str, config: VideoVAEConfig) -> bool:
    if path.startswith("encoder/"):
        return config.causal_encoder
    return config.causal_upsampling if "/upsamplers/" in path else config.causal_decoder


def _differences(
    image_vae: ImageVAE, source: Leaves, config: VideoVAEConfig, target: Leaves, leaves: Leaves
) -> list[str]:
    problems = [f"{path}: only there" for path in sorted(set(source) - set(target))]
    problems += [
        f"{path}: only here" for path in target if path not in source and "_t/" not in path
    ]
    problems += [
        f"{path}: {source[path].shape} there, {leaf.shape} here"
        for path, leaf in target.items()
        if leaves[path].shape != leaf.shape
    ]
    if image_vae.config.norm_groups != config.norm_groups:
        problems.append(
            f"norm_groups: {image_vae.config.norm_groups} there, {config.norm_groups} here"
        )
    return problems


def _fold_quant_convs(image_vae: ImageVAE) -> dict[str, nnx.Module]:
    """Encoder and decoder of the same function without the 1x1 convolutions around the latents."""
    networks = {"encoder": image_vae.encoder, "decoder": image_vae.decoder}
    if not image_vae.config.quant_conv:
        return networks
    leaves = parameter_paths.flatten(networks)
    quant, post_quant = image_vae.quant_conv, image_vae.post_quant_conv
    leaves["encoder/conv_out/bias"] = (
        leaves["encoder/conv_out/bias"] @ quant.kernel[...] + quant.bias[...]
    )
    leaves["encoder/conv_out/kernel"] = leaves["encoder/conv_out/kernel"] @ quant.kernel[...]
    kernel: Float[Array, "kh kw z c"] = leaves["decoder/conv_in/kernel"]
    leaves["decoder/conv_in/bias"] += jnp.einsum("hwzc,z->c", kernel, post_quant.bias[...])
    leaves["decoder/conv_in/kernel"] = jnp.einsum("yz,hwzc->hwyc", post_quant.kernel[...], kernel)
    return parameter_paths.unflatten(networks, leaves)

"""The families of official weights: one row says all that distinguishes a family from the others.

A row names our model, the official PyTorch class, the names of its tensors and layers, and its
config.json. docs/extending.md adds a layout, step by step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from cvvae_jax.config import (
    DiscriminatorConfig,
    I3DConfig,
    ImageVAEConfig,
    InceptionConfig,
    LPIPSConfig,
    SVDVAEConfig,
    VideoVAEConfig,
)
from cvvae_jax.config.latent_scale import LATENT_SCALE
from cvvae_jax.convert import names, sizes
from cvvae_jax.convert.names import Row
from cvvae_jax.convert.sizes import Shapes
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.feature_networks.alexnet import AlexLPIPS
from cvvae_jax.models.feature_networks.i3d import I3D
from cvvae_jax.models.feature_networks.inception import InceptionV3
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.svd_vae import SVDVAE
from cvvae_jax.models.video_vae import PRESETS, VideoVAE


@dataclasses.dataclass(frozen=True)
class Signature:
    """The names of tensors by which a kind of network is found in a file."""

    kind: str
    """The network's name in messages; families may share one."""

    pattern: str
    """A regular expression that matches the beginnings of tensors' names, without a prefix."""


AUTOENCODER = Signature(
    "autoencoder",
    r"(?:(?:encoder|decoder)\.(?:conv_in|conv_out|conv_norm_out|norm_out|mid|mid_block"
    r"|down|up|down_blocks|up_blocks|time_conv_out)|(?:post_)?quant_conv)\.",
)
IMAGENET = Signature("VGG16 or AlexNet", r"features\.\d+\.(?:weight|bias)$")
_LPIPS = Signature("LPIPS", r"(?:net\.slice\d|lin\d)\.")


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of official weights."""

    title: str
    """The name that people use."""

    model_class: type
    """Our model."""

    config_class: type
    """Our model's configuration."""

    official_class: str
    """The PyTorch class that loads the weights."""

    signature: Signature
    """The names of tensors by which a file of the family is recognized."""

    rows: Callable[[Any], list[Row]]
    """The table of layer names for a configuration."""

    read_config: Callable[[Shapes], Any] | None = None
    """Our configuration from the shapes of official tensors. Unset: an autoencoder, which
    `recognition` reads."""

    is_meant: Callable[[Shapes], bool] = lambda shapes: True
    """Whether tensors with the signature are of this family, where families share one."""

    official_config: Callable[[Any], dict[str, Any]] = lambda config: {}
    """The settings in the official class's config.json, from our configuration."""

    unseen: tuple[str, ...] = ()
    """Settings that no tensor shows and the config.json may state, by their names here."""

    usual: Any = None
    """A configuration with the scale of latents of the family's models, where the official class
    doesn't write all of it down."""

    assumed: Callable[[Any], list[str]] = lambda config: []
    """What is assumed without a config.json, in words, from our configuration."""

    imported_by: str | None = None
    """The Python statement that imports the official class; None: it has no `from_pretrained`."""

    defined_in: str = ""
    """Where an official class without `from_pretrained` is defined, in words."""

    exported: bool = True
    """Whether models are written with these names; older names are only read."""


def _sd21_config(config: Any) -> dict[str, Any]:
    spatial = "vanilla-xformers" if config.mid_attention else "none"
    temporal = config.mid_attention and config.decoder_attention == "spatial_temporal"
    width = config.block_channels[0]
    return {
        "double_z": True,
        "z_channels": config.latent_channels,
        "in_channels": 3,
        "out_ch": 3,
        "ch": width,
        "ch_mult": [channels // width for channels in config.block_channels],
        "num_res_blocks": config.blocks_per_level,
        "attn_resolutions": [],
        "dropout": 0.0,
        "use_3d_conv": True,
        "half_3d": config.half_3d,
        "causal_encoder": config.causal_encoder,
        "causal_decoder": config.causal_decoder,
        "encoder_attn_type": spatial,
        "decoder_attn_type": "spatial-temporal-xformer" if temporal else spatial,
        "scaling_factor": config.scaling_factor,
        "force_upcast": True,
        **_chunking(config),
    }


def _sd3_config(config: Any) -> dict[str, Any]:
    levels = len(config.block_channels)
    return {
        "in_channels": 3,
        "out_channels": config.latent_channels,
        "down_block_types": ["DownEncoderBlock3D"] * levels,
        "up_block_types": ["UpDecoderBlock3D"] * levels,
        "block_out_channels": list(config.block_channels),
        "layers_per_block": config.blocks_per_level,
        "norm_num_groups": config.norm_groups,
        "act_fn": "silu",
        "double_z": True,
        "mid_block_add_attention": config.mid_attention,
        "causal_encoder": config.causal_encoder,
        "causal_decoder": config.causal_decoder,
        "half_3d": config.half_3d,
        **_chunking(config),
    }


def _chunking(config: Any) -> dict[str, Any]:
    """How the official classes cut long and large videos: their own defaults."""
    return {
        "en_de_n_frames_a_time": 16,
        "time_n_compress": config.temporal_compression,
        "spatial_n_compress": config.spatial_compression,
        "tile_spatial_size": 576,
        "num_video_frames": None,
        "tile_overlap_ratio": 0.2222,
        "reshape_z_dim_to_4": False,
        "reshape_x_dim_to_4": False,
    }


def _image_config(config: Any) -> dict[str, Any]:
    levels = len(config.block_channels)
    return {
        "act_fn": "silu",
        "block_out_channels": list(config.block_channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "latents_mean": _list_or_none(config.latents_mean),
        "latents_std": _list_or_none(config.latents_std),
        "layers_per_block": config.blocks_per_level,
        "mid_block_add_attention": config.mid_attention,
        "norm_num_groups": config.norm_groups,
        "out_channels": 3,
        "sample_size": 512 if config.latent_channels == 4 else 1024,
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor or None,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_post_quant_conv": config.quant_conv,
        "use_quant_conv": config.quant_conv,
    }


def _list_or_none(values: tuple[float, ...] | None) -> list[float] | None:
    return None if values is None else list(values)


def _svd_config(config: Any) -> dict[str, Any]:
    return {
        "block_out_channels": list(config.block_channels),
        "down_block_types": ["DownEncoderBlock2D"] * len(config.block_channels),
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.blocks_per_level,
        "out_channels": 3,
        "sample_size": 768,
        "scaling_factor": config.scaling_factor,
    }


def _discriminator_config(config: Any) -> dict[str, Any]:
    return {
        "input_nc": 3,
        "ndf": config.base_channels,
        "n_layers": config.layers,
        "use_actnorm": False,
        "half_3d": config.half_3d,
        "causal": False,
    }


def _scale_assumed(config: Any) -> str:
    scale, shift = config.scaling_factor, config.shift_factor
    other = "SDXL's is 0.13025" if config.latent_channels == 4 else "FLUX's are 0.3611, 0.1159"
    return f"scaling factor {scale}, shift {shift} ({other})"


def _groups_assumed(config: Any) -> str:
    return f"{config.norm_groups} groups in every norm"


_CAUSALITY_ASSUMED = "the encoder is causal, the decoder is not"


_CAUSAL = ("causal_encoder", "causal_decoder")
_CVVAE_CLASS = "from models.modeling_vae import {}  # github.com/AILab-CVC/CV-VAE"
_IMAGE_SETTINGS = {
    "official_config": _image_config,
    "unseen": ("norm_groups", *LATENT_SCALE),
    "assumed": lambda config: [_scale_assumed(config), _groups_assumed(config)],
    "imported_by": "from diffusers import AutoencoderKL",
}

SD21 = Family(
    *("CV-VAE SD2.1", VideoVAE, VideoVAEConfig, "CVVAEModel", AUTOENCODER),
    lambda config: names.ldm_rows(len(config.block_channels), image=False),
    official_config=_sd21_config,
    unseen=(*_CAUSAL, *LATENT_SCALE),
    usual=PRESETS["sd21"],
    assumed=lambda config: [_CAUSALITY_ASSUMED],
    imported_by=_CVVAE_CLASS.format("CVVAEModel"),
)
SD3 = Family(
    *("CV-VAE SD3", VideoVAE, VideoVAEConfig, "CVVAESD3Model", AUTOENCODER),
    lambda config: names.diffusers_rows(),
    official_config=_sd3_config,
    unseen=("norm_groups", *_CAUSAL, *LATENT_SCALE),
    usual=PRESETS["sd3"],
    assumed=lambda config: [_groups_assumed(config), _CAUSALITY_ASSUMED],
    imported_by=_CVVAE_CLASS.format("CVVAESD3Model"),
)
IMAGE = Family(
    *("image VAE", ImageVAE, ImageVAEConfig, "AutoencoderKL", AUTOENCODER),
    lambda config: names.diffusers_rows(),
    **_IMAGE_SETTINGS,
)
IMAGE_LDM = Family(
    "image VAE, latent-diffusion names",
    *(ImageVAE, ImageVAEConfig, "AutoencoderKL", AUTOENCODER),
    lambda config: names.ldm_rows(len(config.block_channels), image=True),
    exported=False,
    **_IMAGE_SETTINGS,
)
SVD = Family(
    *("SVD VAE", SVDVAE, SVDVAEConfig, "AutoencoderKLTemporalDecoder", AUTOENCODER),
    lambda config: names.svd_rows(),
    official_config=_svd_config,
    unseen=LATENT_SCALE,
    usual=SVDVAEConfig(),
    imported_by="from diffusers import AutoencoderKLTemporalDecoder",
)
DISCRIMINATOR = Family(
    *("3-D discriminator", Discriminator, DiscriminatorConfig, "NLayerDiscriminator3D"),
    Signature("discriminator", r"main\.\d+\."),
    lambda config: names.discriminator_rows(config.layers),
    lambda shapes: DiscriminatorConfig(**sizes.discriminator_sizes(shapes)),
    official_config=_discriminator_config,
    defined_in="CV-VAE's training code",
)
PERCEPTUAL_VGG16 = Family(
    *("LPIPS, torchvision's names", LPIPS, LPIPSConfig, "LPIPS", IMAGENET),
    lambda config: names.lpips_rows(torchvision=True),
    lambda shapes: LPIPSConfig(),
    lambda shapes: not sizes.is_alexnet(shapes),
    defined_in="the package lpips",
    exported=False,
)
PERCEPTUAL_ALEXNET = Family(
    *("LPIPS with AlexNet, torchvision's names", AlexLPIPS, LPIPSConfig, "LPIPS", IMAGENET),
    lambda config: names.alex_lpips_rows(torchvision=True),
    lambda shapes: LPIPSConfig(),
    sizes.is_alexnet,
    defined_in="the package lpips",
    exported=False,
)
PERCEPTUAL = Family(
    *("LPIPS", LPIPS, LPIPSConfig, "LPIPS", _LPIPS),
    lambda config: names.lpips_rows(),
    lambda shapes: LPIPSConfig(),
    lambda shapes: not sizes.is_alexnet(shapes),
    defined_in="the package lpips",
)
PERCEPTUAL_ALEX = Family(
    *("LPIPS with AlexNet", AlexLPIPS, LPIPSConfig, "LPIPS", _LPIPS),
    lambda config: names.alex_lpips_rows(),
    lambda shapes: LPIPSConfig(),
    sizes.is_alexnet,
    defined_in="the package lpips",
)
VIDEO_CLASSES = Family(
    *("Inception-I3D", I3D, I3DConfig, "InceptionI3d"),
    Signature("Inception-I3D", r"(?:Conv3d_\w+|Mixed_\w+\.b\d[ab]?|logits)\.(?:conv3d|bn)\."),
    lambda config: names.i3d_rows(),
    lambda shapes: I3DConfig(),
    defined_in="piergiaj/pytorch-i3d",
)
IMAGE_CLASSES = Family(
    *("InceptionV3 of FID", InceptionV3, InceptionConfig, "fid_inception_v3"),
    Signature(
        "InceptionV3",
        r"(?:Conv2d_\w+|Mixed_\w+\.branch\w+|AuxLogits\.conv\d)\.(?:conv|bn)\.",
    ),
    lambda config: names.inception_rows(),
    lambda shapes: InceptionConfig(),
    defined_in="pytorch-fid",
)

FAMILIES = (
    *(SD21, SD3, IMAGE, IMAGE_LDM, SVD, DISCRIMINATOR),
    # A file of torchvision's names may hold heads, too, whose names are those of LPIPS.
    *(PERCEPTUAL_VGG16, PERCEPTUAL_ALEXNET, PERCEPTUAL, PERCEPTUAL_ALEX),
    *(VIDEO_CLASSES, IMAGE_CLASSES),
)
"""All families, in the order in which tensors are tried against their signatures."""
MODELS = {
    family.model_class.__name__: (family.model_class, family.config_class) for family in FAMILIES
}
"""Class and configuration of every model of ours, by the class's name."""

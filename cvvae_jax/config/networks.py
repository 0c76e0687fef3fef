"""The networks' settings."""

import dataclasses
import math
from typing import Literal

from cvvae_jax.config.checks import at_least, at_most
from cvvae_jax.config.latent_scale import check_latent_scale
from cvvae_jax.errors import ConfigError

DType = Literal["float32", "bfloat16", "float16"]

Remat = Literal["none", "blocks", "full"]
"""What a forward pass keeps for the backward pass: everything it needs (`none`); the inputs of
residual blocks, attention layers, resamplings and single layers, whose insides are computed again
(`blocks`); or the inputs of resolution levels, inside which it is again one block at a time
(`full`)."""


# Far above every known network: more would be a damaged or a hostile file, whose network would take
# for ever to be set up.
_MOST_LEVELS, _MOST_BLOCKS, _MOST_LAYERS, _MOST_CHANNELS = 10, 32, 32, 2**16


def _check_networks(config: "ImageVAEConfig | VideoVAEConfig | SVDVAEConfig") -> None:
    at_least(config, 1, "blocks_per_level", "latent_channels", "norm_groups")
    at_most(config, _MOST_BLOCKS, "blocks_per_level")
    at_most(config, _MOST_CHANNELS, "latent_channels", "norm_groups")
    if not 1 <= len(config.block_channels) <= _MOST_LEVELS:
        raise ConfigError(
            f"block_channels must be 1 to {_MOST_LEVELS} numbers, one a level, not "
            f"{len(config.block_channels):,}."
        )
    for channels in config.block_channels:
        if not 1 <= channels <= _MOST_CHANNELS or channels % config.norm_groups:
            raise ConfigError(
                f"block_channels {config.block_channels} must be multiples of "
                f"norm_groups {config.norm_groups}, {_MOST_CHANNELS:,} at most."
            )
    if not 0 < getattr(config, "norm_eps", 1e-6) < math.inf:
        raise ConfigError(f"norm_eps must be a finite number above 0, not {config.norm_eps}.")
    check_latent_scale(config)


@dataclasses.dataclass(frozen=True)
class ImageVAEConfig:
    """An image VAE of Stable Diffusion's kind (AutoencoderKL in diffusers).

    The defaults are SD 1.x/2.x.
    """

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of every resolution level; all but the last level halve height and width."""
    blocks_per_level: int = 2
    """Residual blocks of an encoder level; a decoder level has one more."""
    latent_channels: int = 4
    """Channels of the latents: 4 in SD 1.x/2.x/XL, 16 in SD3 and FLUX."""
    norm_groups: int = 32
    """Groups of every GroupNorm."""
    norm_eps: float = 1e-6
    """Added to the variance in every GroupNorm."""
    mid_attention: bool = True
    """Whether the middle of encoder and decoder has an attention layer."""
    quant_conv: bool = True
    """Whether 1x1 convolutions stand on both sides of the latents (SD 1.x/2.x/XL: yes; SD3, FLUX:
    no)."""
    scaling_factor: float = 0.18215
    """Latents as diffusion models see them are (latents - shift_factor) * scaling_factor."""
    shift_factor: float = 0.0
    """See `scaling_factor`."""
    latents_mean: tuple[float, ...] | None = None
    """Of every channel; with it and `latents_std`, latents as diffusion models see them are
    (latents - latents_mean) * scaling_factor / latents_std, as of Playground v2.5."""
    latents_std: tuple[float, ...] | None = None
    """See `latents_mean`."""
    dtype: DType = "float32"
    """Type of the computation; norm and softmax statistics are float32 whatever is set."""
    decoder_dtype: DType | None = None
    """Type of the decoder's computation; unset: `dtype`."""
    param_dtype: DType = "float32"
    """Type in which parameters are kept."""

    def __post_init__(self):
        _check_networks(self)

    @property
    def spatial_compression(self) -> int:
        """Pixels along an edge of one latent."""
        return 2 ** (len(self.block_channels) - 1)

    @property
    def temporal_compression(self) -> int:
        """Frames of one latent frame."""
        return 1


@dataclasses.dataclass(frozen=True)
class VideoVAEConfig:
    """A video VAE of the CV-VAE kind.

    The defaults are the official SD2.1 family ("v1", "v1.1").
    """

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of every resolution level; all but the last level halve height and width."""
    blocks_per_level: int = 2
    """Residual blocks of an encoder level; a decoder level has one more."""
    latent_channels: int = 4
    """Channels of the latents; must be those of the image VAE the latents are to be compatible
    with."""
    temporal_strides: tuple[int, ...] = (2, 1, 2)
    """Stride in time of every downsampling, highest resolution first; the decoder uses them in the
    same order from its lowest resolution up."""
    half_3d: bool = True
    """Whether the second convolution of a residual block is per frame ("2D+3D" in the paper) or 3-D
    ("3D")."""
    causal_encoder: bool = True
    """Whether the encoder's 3-D convolutions see only the past."""
    causal_decoder: bool = False
    """Whether the decoder's 3-D convolutions see only the past."""
    causal_upsampling: bool = False
    """Whether the decoder's upsampling sees only the past; an option of the SD3 family."""
    norm_groups: int = 32
    """Groups of every GroupNorm."""
    norm_eps: float = 1e-5
    """Added to the variance in every GroupNorm."""
    spatial_padding: Literal["zero", "edge"] = "zero"
    """What 3-D convolutions see beyond the frame's border; per-frame convolutions always see
    zeros."""
    temporal_padding: Literal["zero", "edge"] = "zero"
    """What centered 3-D convolutions see beyond the first and last frame; causal and upsampling
    ones see the nearest frame."""
    downsample_padding: Literal["asymmetric", "symmetric"] = "asymmetric"
    """Whether a downsampling pads bottom and right by one, or all four sides."""
    mid_attention: bool = True
    """Whether the middle of encoder and decoder has an attention layer."""
    decoder_attention: Literal["spatial", "spatial_temporal"] = "spatial_temporal"
    """Whether the decoder's attention looks along time after it has looked across the frame."""
    scaling_factor: float = 0.18215
    """Latents as diffusion models see them are (latents - shift_factor) * scaling_factor."""
    shift_factor: float = 0.0
    """See `scaling_factor`."""
    latents_mean: tuple[float, ...] | None = None
    """Of every channel; with it and `latents_std`, latents as diffusion models see them are
    (latents - latents_mean) * scaling_factor / latents_std, as of Playground v2.5."""
    latents_std: tuple[float, ...] | None = None
    """See `latents_mean`."""
    dtype: DType = "float32"
    """Type of the computation; norm and softmax statistics are float32 whatever is set."""
    decoder_dtype: DType | None = None
    """Type of the decoder's computation; unset: `dtype`."""
    param_dtype: DType = "float32"
    """Type in which parameters are kept."""

    def __post_init__(self):
        _check_networks(self)
        if len(self.temporal_strides) != len(self.block_channels) - 1:
            raise ConfigError(
                f"temporal_strides {self.temporal_strides} must name one stride for each of the "
                f"{len(self.block_channels) - 1} downsamplings of {self.block_channels}."
            )
        if set(self.temporal_strides) - {1, 2}:
            raise ConfigError(f"temporal_strides {self.temporal_strides} may hold only 1 and 2.")

    @property
    def spatial_compression(self) -> int:
        """Pixels along an edge of one latent."""
        return 2 ** (len(self.block_channels) - 1)

    @property
    def temporal_compression(self) -> int:
        """Frames of one latent frame, the first one aside."""
        return 2 ** sum(stride == 2 for stride in self.temporal_strides)


@dataclasses.dataclass(frozen=True)
class SVDVAEConfig:
    """Stable Video Diffusion's VAE (AutoencoderKLTemporalDecoder in diffusers).

    The defaults are the published model.
    """

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of every resolution level; all but the last level halve height and width."""
    blocks_per_level: int = 2
    """Residual blocks of an encoder level and of the decoder's middle; a decoder level has one
    more."""
    latent_channels: int = 4
    """Channels of the latents."""
    norm_groups: int = 32
    """Groups of every GroupNorm."""
    scaling_factor: float = 0.18215
    """Latents as diffusion models see them are (latents - shift_factor) * scaling_factor."""
    shift_factor: float = 0.0
    """See `scaling_factor`."""
    latents_mean: tuple[float, ...] | None = None
    """Of every channel; with it and `latents_std`, latents as diffusion models see them are
    (latents - latents_mean) * scaling_factor / latents_std, as of Playground v2.5."""
    latents_std: tuple[float, ...] | None = None
    """See `latents_mean`."""
    dtype: DType = "float32"
    """Type of the computation; norm and softmax statistics are float32 whatever is set."""
    param_dtype: DType = "float32"
    """Type in which parameters are kept."""

    def __post_init__(self):
        _check_networks(self)

    @property
    def spatial_compression(self) -> int:
        """Pixels along an edge of one latent."""
        return 2 ** (len(self.block_channels) - 1)

    @property
    def temporal_compression(self) -> int:
        """Frames of one latent frame."""
        return 1


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """The 3-D discriminator of the GAN loss.

    The defaults are the official model.
    """

    base_channels: int = 64
    """Channels after the first convolution; the blocks widen up to 8 times that."""
    layers: int = 4
    """Residual blocks; all but the last two halve time, height and width."""
    half_3d: bool = False
    """Whether the second convolution of a residual block is per frame or 3-D."""
    norm_groups: int = 32
    """Groups of every GroupNorm."""
    dtype: DType = "float32"
    """Type of the computation; norm statistics are float32 whatever is set."""
    param_dtype: DType = "float32"
    """Type in which parameters are kept."""

    def __post_init__(self):
        at_least(self, 1, "base_channels", "norm_groups")
        at_least(self, 2, "layers")
        at_most(self, _MOST_LAYERS, "layers")
        at_most(self, _MOST_CHANNELS, "base_channels")
        if self.base_channels % self.norm_groups:
            raise ConfigError(
                f"base_channels {self.base_channels} must be a multiple of norm_groups "
                f"{self.norm_groups}."
            )

    @property
    def spatial_compression(self) -> int:
        """Pixels of height and width that one logit stands for."""
        return 2 ** (self.layers - 1)


@dataclasses.dataclass(frozen=True)
class LPIPSConfig:
    """The network of LPIPS, VGG16 or AlexNet with the heads of LPIPS; its class says which."""

    dtype: DType = "float32"
    """Type of the convolutions; norms of features and distances are float32 whatever is set."""
    param_dtype: DType = "float32"
    """Type in which parameters are kept."""


@dataclasses.dataclass(frozen=True)
class I3DConfig:
    """The network of the Frechet video distance: Inception-I3D with the 400 classes of Kinetics."""

    dtype: DType = "float32"
    """Type of the convolutions; what follows them is float32 whatever is set."""
    param_dtype: DType = "float32"
    """Type in which parameters are kept."""


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
    """The network of the Frechet distance of frames: InceptionV3 with the 1008 classes of FID's."""

    dtype: DType = "float32"
    """Type of the convolutions; what follows them is float32 whatever is set."""
    param_dtype: DType = "float32"
    """Type in which parameters are kept."""

"""Settings of the networks: their architecture, and the types that they compute in."""

import dataclasses
import math
from typing import Literal

from cvvae_jax.config.checks import at_least, at_most
from cvvae_jax.config.latent_scale import check_latent_scale
from cvvae_jax.errors import ConfigError

DType = Literal["float32", "bfloat16", "float16"]

Remat = Literal["none", "blocks", "full"]
"""The activations that the backward pass computes again rather than keeping them: none of them
(`none`); those inside of residual blocks, attention layers, resamplings and single layers
(`blocks`); or all but the inputs of resolution levels, one block at a time (`full`)."""


# Far above every known network. A file with more is damaged or hostile, and building its network
# would take for ever.
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

    Defaults are those of SD 1.x and 2.x.
    """

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of every resolution level; each level but the last halves height and width."""
    blocks_per_level: int = 2
    """Residual blocks of an encoder level; a decoder level has one more."""
    latent_channels: int = 4
    """Channels of the latents: 4 in SD 1.x/2.x/XL, 16 in SD3 and FLUX."""
    norm_groups: int = 32
    """Number of groups of every GroupNorm."""
    norm_eps: float = 1e-6
    """Added to the variance in every GroupNorm."""
    mid_attention: bool = True
    """Whether encoder and decoder have an attention layer in the middle."""
    quant_conv: bool = True
    """Whether a 1x1 convolution comes before the latents and another one after them (SD 1.x, 2.x
    and XL: yes; SD3 and FLUX: no)."""
    scaling_factor: float = 0.18215
    """Diffusion models are given (latents - shift_factor) * scaling_factor."""
    shift_factor: float = 0.0
    """See `scaling_factor`."""
    latents_mean: tuple[float, ...] | None = None
    """A mean for every channel. With it, diffusion models are given (latents - latents_mean) *
    scaling_factor / latents_std, as for Playground v2.5."""
    latents_std: tuple[float, ...] | None = None
    """A standard deviation for every channel: see `latents_mean`."""
    dtype: DType = "float32"
    """Type of the computation; statistics of norms and softmax are always float32."""
    decoder_dtype: DType | None = None
    """Type of the decoder's computation; if unset, it is `dtype`."""
    param_dtype: DType = "float32"
    """Type of the parameters."""

    def __post_init__(self):
        _check_networks(self)

    @property
    def spatial_compression(self) -> int:
        """Pixels of a frame per latent, along height and along width."""
        return 2 ** (len(self.block_channels) - 1)

    @property
    def temporal_compression(self) -> int:
        """Video frames per latent frame: 1, since every frame is encoded by itself."""
        return 1


@dataclasses.dataclass(frozen=True)
class VideoVAEConfig:
    """A compatible video VAE (CV-VAE).

    Defaults are those of the official SD2.1 family ("v1", "v1.1").
    """

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of every resolution level; each level but the last halves height and width."""
    blocks_per_level: int = 2
    """Residual blocks of an encoder level; a decoder level has one more."""
    latent_channels: int = 4
    """Channels of the latents; must equal those of the image VAE to be compatible with."""
    temporal_strides: tuple[int, ...] = (2, 1, 2)
    """Stride in time of every downsampling, from the highest resolution down. The decoder uses the
    same order from its lowest resolution up."""
    half_3d: bool = True
    """Whether the second convolution of a residual block works per frame (the paper's "2D+3D")
    rather than in 3-D ("3D")."""
    causal_encoder: bool = True
    """Whether the encoder's 3-D convolutions see only the past."""
    causal_decoder: bool = False
    """Whether the decoder's 3-D convolutions see only the past."""
    causal_upsampling: bool = False
    """Whether the decoder's upsampling sees only the past, an option of the official SD3 code."""
    norm_groups: int = 32
    """Number of groups of every GroupNorm."""
    norm_eps: float = 1e-5
    """Added to the variance in every GroupNorm."""
    spatial_padding: Literal["zero", "edge"] = "zero"
    """Padding of 3-D convolutions beyond the frame's border: zeros, or the nearest pixel.
    Per-frame convolutions always have zeros."""
    temporal_padding: Literal["zero", "edge"] = "zero"
    """Padding of centered 3-D convolutions beyond the first and the last frame: zeros, or the
    nearest frame. Causal convolutions and those of upsampling always have the nearest frame."""
    downsample_padding: Literal["asymmetric", "symmetric"] = "asymmetric"
    """Padding of downsampling convolutions: one pixel at bottom and right, or at all four sides."""
    mid_attention: bool = True
    """Whether encoder and decoder have an attention layer in the middle."""
    decoder_attention: Literal["spatial", "spatial_temporal"] = "spatial_temporal"
    """Whether the decoder attends within frames only, or then also along time."""
    scaling_factor: float = 0.18215
    """Diffusion models are given (latents - shift_factor) * scaling_factor."""
    shift_factor: float = 0.0
    """See `scaling_factor`."""
    latents_mean: tuple[float, ...] | None = None
    """A mean for every channel. With it, diffusion models are given (latents - latents_mean) *
    scaling_factor / latents_std, as for Playground v2.5."""
    latents_std: tuple[float, ...] | None = None
    """A standard deviation for every channel: see `latents_mean`."""
    dtype: DType = "float32"
    """Type of the computation; statistics of norms and softmax are always float32."""
    decoder_dtype: DType | None = None
    """Type of the decoder's computation; if unset, it is `dtype`."""
    param_dtype: DType = "float32"
    """Type of the parameters."""

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
        """Pixels of a frame per latent, along height and along width."""
        return 2 ** (len(self.block_channels) - 1)

    @property
    def temporal_compression(self) -> int:
        """Video frames per latent frame. The first latent frame encodes one frame only."""
        return 2 ** sum(stride == 2 for stride in self.temporal_strides)


@dataclasses.dataclass(frozen=True)
class SVDVAEConfig:
    """Stable Video Diffusion's VAE (AutoencoderKLTemporalDecoder in diffusers).

    Defaults are those of the published model.
    """

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of every resolution level; all but the last level halve height and width."""
    blocks_per_level: int = 2
    """Residual blocks of an encoder level and of the decoder's middle; a decoder level has one
    more."""
    latent_channels: int = 4
    """Channels of the latents."""
    norm_groups: int = 32
    """Number of groups of every GroupNorm."""
    scaling_factor: float = 0.18215
    """Diffusion models are given (latents - shift_factor) * scaling_factor."""
    shift_factor: float = 0.0
    """See `scaling_factor`."""
    latents_mean: tuple[float, ...] | None = None
    """A mean for every channel. With it, diffusion models are given (latents - latents_mean) *
    scaling_factor / latents_std, as for Playground v2.5."""
    latents_std: tuple[float, ...] | None = None
    """A standard deviation for every channel: see `latents_mean`."""
    dtype: DType = "float32"
    """Type of the computation; statistics of norms and softmax are always float32."""
    param_dtype: DType = "float32"
    """Type of the parameters."""

    def __post_init__(self):
        _check_networks(self)

    @property
    def spatial_compression(self) -> int:
        """Pixels of a frame per latent, along height and along width."""
        return 2 ** (len(self.block_channels) - 1)

    @property
    def temporal_compression(self) -> int:
        """Video frames per latent frame: 1, since every frame is encoded by itself."""
        return 1


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """The 3-D discriminator of the GAN loss.

    Defaults are those of the official model.
    """

    base_channels: int = 64
    """Channels after the first convolution; later blocks have up to 8 times as many."""
    layers: int = 4
    """Number of residual blocks; each but the last two halves time, height and width."""
    half_3d: bool = False
    """Whether the second convolution of a residual block works per frame rather than in 3-D."""
    norm_groups: int = 32
    """Number of groups of every GroupNorm."""
    dtype: DType = "float32"
    """Type of the computation; statistics of norms are always float32."""
    param_dtype: DType = "float32"
    """Type of the parameters."""

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
    """The network of LPIPS: VGG16 or AlexNet, by the network's class, with the heads of LPIPS."""

    dtype: DType = "float32"
    """Type of the convolutions; norms of features and distances are always float32."""
    param_dtype: DType = "float32"
    """Type of the parameters."""


@dataclasses.dataclass(frozen=True)
class I3DConfig:
    """The network of the Frechet video distance: I3D for the 400 classes of Kinetics."""

    dtype: DType = "float32"
    """Type of the convolutions; later operations are always float32."""
    param_dtype: DType = "float32"
    """Type of the parameters."""


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
    """The network of the Frechet inception distance: its InceptionV3, with 1008 classes."""

    dtype: DType = "float32"
    """Type of the convolutions; later operations are always float32."""
    param_dtype: DType = "float32"
    """Type of the parameters."""

"""Every number a user may set, as frozen dataclasses with a sentence for every field.

This file imports neither jax nor flax, so that `--help` is quick.
"""

import dataclasses
from typing import Any, Literal

DType = Literal["float32", "bfloat16", "float16"]
Mapping = Literal["first", "slice", "mean", "random"]


class ConfigError(ValueError):
    """A setting, a file or an argument that cannot be used; its message is a sentence for users."""


def _at_least(config: Any, smallest: int, *names: str) -> None:
    """Refuses fields below a limit."""
    for name in names:
        if getattr(config, name) < smallest:
            value = getattr(config, name)
            raise ConfigError(f"{name} must be {smallest} or more, not {value}.")


def _check_networks(config: "ImageVAEConfig | VideoVAEConfig | SVDVAEConfig") -> None:
    _at_least(config, 1, "blocks_per_level", "latent_channels", "norm_groups")
    for channels in config.block_channels:
        if channels < 1 or channels % config.norm_groups:
            raise ConfigError(
                f"block_channels {config.block_channels} must be multiples of "
                f"norm_groups {config.norm_groups}."
            )


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
    dtype: DType = "float32"
    """Type of the computation; norm and softmax statistics are float32 whatever is set."""
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
        _at_least(self, 1, "base_channels", "norm_groups")
        _at_least(self, 2, "layers")
        if self.base_channels % self.norm_groups:
            raise ConfigError(
                f"base_channels {self.base_channels} must be a multiple of norm_groups "
                f"{self.norm_groups}."
            )


@dataclasses.dataclass(frozen=True)
class LPIPSConfig:
    """The network of the perceptual loss: VGG16 with the heads of LPIPS."""

    dtype: DType = "float32"
    """Type of the convolutions; norms of features and distances are float32 whatever is set."""
    param_dtype: DType = "float32"
    """Type in which parameters are kept."""


@dataclasses.dataclass(frozen=True)
class Bucket:
    """One shape of training batch; every bucket is a compiled step of its own."""

    frames: int
    """Frames of a clip: 1 for images, else a multiple of the temporal compression plus 1."""
    size: int
    """Height and width in pixels."""
    batch: int
    """Clips in the global batch, over all devices."""
    weight: float = 1.0
    """Share of the steps, relative to the other buckets."""

    def __post_init__(self):
        _at_least(self, 1, "frames", "size", "batch")

    @property
    def kind(self) -> Literal["image", "video"]:
        """A bucket of one-frame clips is filled from images, any other from videos."""
        return "image" if self.frames == 1 else "video"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where clips come from and how they are cut.

    Without a folder: moving photographs, made on the fly.
    """

    videos: str | None = None
    """Folder of video files, searched recursively; unset with `images` unset too: moving
    photographs."""
    images: str | None = None
    """Folder of image files, searched recursively; unset: single frames of the videos."""
    eval_videos: str | None = None
    """Folder of unseen videos to measure on; unset: every tenth video file is held out of
    training."""
    eval_clips: int = 16
    """Unseen clips that an evaluation is measured on."""
    max_stride: int = 8
    """Frames of a clip are 1 to this many source frames apart, drawn per clip."""
    short_side: int | None = None
    """Videos are resized so that their short side has this many pixels before a random crop; unset:
    the crop."""
    workers: int = 0
    """Processes that decode; 0 decodes in threads of the main process."""
    threads: int = 2
    """Threads that decode, in every process."""

    def __post_init__(self):
        _at_least(self, 1, "eval_clips", "max_stride", "threads")
        _at_least(self, 0, "workers")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the training objective, per frame: sum over pixels, mean over frames."""

    recon: Literal["l1", "l2"] = "l1"
    """Distance between video and reconstruction, and in the compatibility loss."""
    kl_weight: float = 1e-2
    """Weight of the KL divergence to a standard normal, summed over a clip's latents."""
    compat_mode: Literal["none", "decoder"] = "decoder"
    """The paper's latent regularization: `decoder` asks the frozen image decoder to show the
    video's frames."""
    compat_weight: float = 1.0
    """Weight of the compatibility loss."""
    mapping: Mapping = "random"
    """Which frame stands for the four of a latent frame in the compatibility loss: the paper's
    psi."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with global-norm clipping, a linear warm-up and a cosine decay."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    warmup_steps: int = 100
    """Steps from zero to the peak."""
    final_fraction: float = 0.01
    """Learning rate of the last step as a fraction of the peak."""
    beta1: float = 0.9
    """Decay of AdamW's first moment."""
    beta2: float = 0.98
    """Decay of AdamW's second moment."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    ema_decay: float = 0.999
    """Decay of the averaged parameters, warmed up as min(decay, (1 + step) / (10 + step))."""


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One training stage: its batches, its optimizer and its rhythm."""

    steps: int
    """Optimizer steps."""
    buckets: tuple[Bucket, ...]
    """Shapes of batches, mixed by weight."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer and its schedule."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = 3
    """How many checkpoints are kept, the newest ones."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl and TensorBoard scalars."""
    eval_every: int = 1000
    """Steps between evaluations on unseen clips; the last step always has one."""

    def __post_init__(self):
        _at_least(
            self, 1, "steps", "checkpoint_every", "keep_checkpoints", "log_every", "eval_every"
        )
        if not self.buckets:
            raise ConfigError("buckets must hold one shape of batch at least.")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged: batches are split over both axes, parameters over `fsdp`."""

    data: int = -1
    """Devices along the data axis; -1 takes all that `fsdp` leaves."""
    fsdp: int = 1
    """Devices that share one copy of the parameters, moments and averages."""

    def __post_init__(self):
        _at_least(self, 1, "fsdp")
        if self.data < 1 and self.data != -1:
            raise ConfigError(f"mesh.data must be 1 or more, or -1 for all, not {self.data}.")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A whole run: an image VAE (loaded, or trained in a first stage), then a video VAE compatible
    with it."""

    image_model: ImageVAEConfig
    """The frozen image VAE, as it is trained when `image_vae` is unset."""
    model: VideoVAEConfig
    """The video VAE."""
    image_train: StageConfig
    """Stage 1: training the image VAE; skipped when `image_vae` is set."""
    train: StageConfig
    """Stage 2: training the video VAE."""
    image_vae: str | None = None
    """Run folder or checkpoint of a trained image VAE to be compatible with."""
    init: Literal["inflate", "random"] = "inflate"
    """Start the video VAE from the image VAE's weights, or from random ones."""
    data: DataConfig = DataConfig()
    """Training and evaluation data."""
    loss: LossConfig = LossConfig()
    """The objective."""
    mesh: MeshConfig = MeshConfig()
    """The devices."""
    matmul_precision: Literal["default", "high", "highest"] = "default"
    """Precision of float32 products; accelerators round to bf16 or TF32 unless `highest`."""
    seed: int = 0
    """Seed of initialization, data order and noise."""
    workdir: str = "runs/default"
    """The run folder; one that holds a checkpoint is continued."""

    def __post_init__(self):
        _at_least(self, 0, "seed")

"""A run's settings: data, losses, optimizer, devices."""

import dataclasses
from typing import Literal

from cvvae_jax.config.checks import ConfigError, at_least
from cvvae_jax.config.networks import ImageVAEConfig, VideoVAEConfig

Mapping = Literal["first", "slice", "mean", "random"]


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
        at_least(self, 1, "frames", "size", "batch")

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
        at_least(self, 1, "eval_clips", "max_stride", "threads")
        at_least(self, 0, "workers")


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
        at_least(
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
        at_least(self, 1, "fsdp")
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
        at_least(self, 0, "seed")

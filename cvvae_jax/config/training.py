"""A run's settings: data, losses, optimizer, devices."""

import dataclasses
import math
from typing import Literal

from cvvae_jax.config.checks import at_least
from cvvae_jax.config.networks import (
    DiscriminatorConfig,
    DType,
    ImageVAEConfig,
    Remat,
    VideoVAEConfig,
)
from cvvae_jax.config.places import expand_home
from cvvae_jax.errors import ConfigError

BestBy = Literal[
    "psnr_recon",
    "ssim_recon",
    "psnr_compat",
    "ssim_compat",
    "psnr_image_latents",
    "ssim_image_latents",
]
Mapping = Literal["first", "slice", "mean", "random"]


@dataclasses.dataclass(frozen=True)
class Bucket:
    """One shape of training batch; every bucket is a compiled step of its own."""

    frames: int
    """Frames of a clip: 1 for images, else a multiple of the temporal compression plus 1."""
    size: int | tuple[int, int]
    """Height and width in pixels: one number for both, or (height, width)."""
    batch: int
    """Clips in the global batch, over all devices."""
    weight: float = 1.0
    """Share of the steps, relative to the other buckets."""

    def __post_init__(self):
        at_least(self, 1, "frames", "height", "width", "batch")
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"a bucket's weight must be above 0, not {self.weight}.")

    @property
    def kind(self) -> Literal["image", "video"]:
        """A bucket of one-frame clips is filled from images, any other from videos."""
        return "image" if self.frames == 1 else "video"

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.size if isinstance(self.size, int) else self.size[1]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where clips come from and how they are cut.

    A place is a folder, searched recursively; a pattern (`clips/**/*.mp4`); a list (.csv or .jsonl
    with a column `path`); ArrayRecord or tar shards, or the folder that they are in; or
    `tfds:NAME`. Without any: moving photographs, made on the fly.
    """

    videos: str | None = None
    """Place of the videos; unset with `images` unset too: moving photographs."""
    images: str | None = None
    """Place of the images; unset: single frames of the videos."""
    eval_videos: str | None = None
    """Place of unseen videos to measure on; unset: one video and one image in ten are held out of
    training."""
    exclude: str | None = None
    """File of names to leave out, one a line, as `python -m cvvae_jax data check` writes it."""
    eval_clips: int = 16
    """Unseen clips that an evaluation is measured on."""
    min_stride: int = 1
    """Frames of a clip are this many source frames apart at least, where the video is long
    enough."""
    max_stride: int = 8
    """And this many at most; drawn per clip."""
    fps: tuple[float, float] | None = None
    """Instead of strides: frames a second of a clip, drawn from this range per clip; at most the
    video's own, and more where the video would be too short."""
    short_side: int | None = None
    """Videos are resized so that their short side has this many pixels before a crop; unset or too
    small: so that they just cover the crop."""
    crop: Literal["random", "center"] = "random"
    """Which part of a video's frame is taken; of images it is the middle."""
    flip: bool = False
    """Half of the clips are mirrored, left for right."""
    reverse: bool = False
    """Half of the clips are played backward."""
    max_bad: float = 0.1
    """A run stops when more than this share of the records could not be decoded, of 200 or more;
    until then others take their place."""
    workers: int = 0
    """Processes that decode; 0 decodes in threads of the main process."""
    threads: int = 2
    """Threads that decode, in every process."""

    def __post_init__(self):
        expand_home(self, "videos", "images", "eval_videos", "exclude")
        at_least(self, 1, "eval_clips", "min_stride", "max_stride", "threads")
        at_least(self, 0, "workers", "max_bad")
        if self.short_side is not None:
            at_least(self, 1, "short_side")
        if self.min_stride > self.max_stride:
            raise ConfigError(
                f"min_stride is {self.min_stride}, more than max_stride, {self.max_stride}."
            )
        if self.fps is not None and not 0 < self.fps[0] <= self.fps[1] < math.inf:
            low, high = self.fps
            raise ConfigError(f"fps must be a range of rates above 0, not {low} to {high}.")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The training objective; errors are summed over a frame's pixels and averaged over frames.

    The defaults are the released official recipe's.
    """

    recon: Literal["l1", "l2"] = "l1"
    """Distance between video and reconstruction."""
    lpips_weight: float = 0.5
    """Weight of LPIPS beside the distance of a pixel; above 0 it needs `lpips`, the network."""
    log_scale: float = 0.0
    """Where the learned log-scales of the reconstruction and of the compatibility loss start."""
    kl_weight: float = 1.0
    """Weight of the KL divergence to a standard normal, summed over a clip's latents."""
    compat_mode: Literal["none", "encoder", "decoder", "both"] = "decoder"
    """The paper's latent regularization: `decoder` asks the frozen image decoder to show the
    video's frames, `encoder` asks the video decoder to show the video from the image encoder's
    latents."""
    compat_weight: float = 1.0
    """Weight of the compatibility loss."""
    compat_recon: Literal["l1", "l2"] = "l1"
    """Distance between frames in decoder-based compatibility; encoder-based takes `recon`."""
    compat_lpips_weight: float = 0.0
    """Weight of LPIPS in decoder-based compatibility; encoder-based takes `lpips_weight`."""
    mapping: Mapping = "random"
    """Which frame stands for the four of a latent frame in the compatibility loss: the paper's
    psi."""
    gan: Literal["none", "hinge", "vanilla"] = "hinge"
    """The discriminator's loss; `none` trains without one."""
    gan_weight: float = 0.5
    """Weight of the GAN loss beside the rest of the objective, times the adaptive weight, which
    makes both gradients equally long at the decoder's last layer."""
    gan_start_step: int = 0
    """Step at which the GAN loss and the discriminator's training begin."""
    gan_penalty: Literal["none", "r1", "lecam"] = "none"
    """What keeps the discriminator smooth: the squared gradient at real videos (R1), or the
    distance of its logits to their running averages (LeCAM)."""
    gan_penalty_weight: float = 1.0
    """Weight of `gan_penalty`."""

    def __post_init__(self):
        at_least(
            self,
            0,
            "lpips_weight",
            "kl_weight",
            "compat_weight",
            "compat_lpips_weight",
            "gan_weight",
            "gan_start_step",
            "gan_penalty_weight",
        )

    @property
    def needs_lpips(self) -> bool:
        """Whether a term of the objective is LPIPS."""
        compat = self.compat_mode in ("decoder", "both") and self.compat_lpips_weight > 0
        return self.lpips_weight > 0 or compat


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with global-norm clipping and a schedule, for one network."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "cosine_unclamped"] = "cosine"
    """What follows the warm-up: the peak; a cosine down to `final_fraction` at `period_steps`,
    which stays there; or the official one, which rises again after that."""
    warmup_steps: int = 100
    """Steps of a linear rise from zero to the peak."""
    period_steps: int | None = None
    """Steps until the cosine reaches its floor, warm-up included; unset: all steps of the run."""
    final_fraction: float = 0.01
    """The cosine's floor as a fraction of the peak."""
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

    def __post_init__(self):
        at_least(self, 0, "learning_rate", "warmup_steps", "final_fraction", "weight_decay")
        for name in ("clip_norm", "eps"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}.")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), not {getattr(self, name)}.")
        if self.period_steps is not None and self.period_steps <= self.warmup_steps:
            raise ConfigError(
                f"period_steps must be above warmup_steps ({self.warmup_steps}), not "
                f"{self.period_steps}."
            )


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One training stage: its batches, its optimizers and its rhythm."""

    steps: int
    """Training steps, each on one batch."""
    buckets: tuple[Bucket, ...]
    """Shapes of batches, mixed by weight."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer of the VAE and of the log-scales."""
    gan_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-5, schedule="constant")
    """Optimizer of the discriminator."""
    updates: Literal["alternate", "joint"] = "alternate"
    """With a GAN: even steps update the VAE and odd ones the discriminator, as the official code
    does; or every step updates both, from one forward pass."""
    accumulate: int = 1
    """Parts that every batch is taken in, one after the other, to save memory; the step is the same
    but for rounding."""
    remat: Remat = "none"
    """Activations that are computed again in the backward pass, to save memory: none; those inside
    of blocks; or all but the inputs of resolution levels."""
    ema_decay: float = 0.999
    """Decay of the averaged parameters, warmed up as min(decay, (1 + updates) / (10 + updates))."""
    max_skipped: int = 20
    """Updates in a row that may be skipped because the loss or a gradient is not finite, before the
    run goes back to its last checkpoint and on with other data (once; then it stops)."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = 3
    """How many checkpoints are kept, the newest ones; `keep_every` and `keep_best` keep more."""
    keep_every: int | None = None
    """Checkpoints of steps that this divides are kept for ever."""
    keep_best: BestBy | None = None
    """The checkpoint with the highest of these scores on unseen clips is kept, too; only steps that
    have both an evaluation and a checkpoint take part."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl and TensorBoard scalars."""
    eval_every: int = 1000
    """Steps between evaluations on unseen clips; the last step always has one."""

    def __post_init__(self):
        at_least(
            self,
            1,
            "steps",
            "accumulate",
            "max_skipped",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
            "eval_every",
        )
        if self.keep_every is not None:
            at_least(self, 1, "keep_every")
            if self.keep_every % self.checkpoint_every:
                raise ConfigError(
                    f"keep_every must be a multiple of checkpoint_every ({self.checkpoint_every}), "
                    f"not {self.keep_every}."
                )
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must be in [0, 1), not {self.ema_decay}.")
        if not self.buckets:
            raise ConfigError("buckets must hold one shape of batch at least.")
        for bucket in self.buckets:
            if bucket.batch % self.accumulate:
                raise ConfigError(
                    f"a batch of {bucket.batch} can't be taken in {self.accumulate} equal parts "
                    "(accumulate)."
                )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged: batches are split over `data` and `fsdp`, parameters over `fsdp`,
    the rows of frames over `space`."""

    data: int = -1
    """Devices along the data axis; -1 takes all that the other two leave."""
    fsdp: int = 1
    """Devices that share one copy of the parameters, moments and averages."""
    space: int = 1
    """Devices that share a clip, each with some of its rows: for clips whose activations one device
    doesn't hold."""

    def __post_init__(self):
        at_least(self, 1, "fsdp", "space")
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
    """Weights of the image VAE to be compatible with, ours or PyTorch's: anything `load` reads."""
    init: Literal["inflate", "random"] = "inflate"
    """Start the video VAE from the image VAE's weights, or from random ones."""
    init_weights: str | None = None
    """Weights of a video VAE to start from in place of `init`, ours or PyTorch's; its architecture
    must be `model`'s."""
    lpips: str | None = None
    """Weights of the network of LPIPS; without them `loss.lpips_weight` must be 0."""
    frozen_dtype: DType = "float32"
    """Type of the computation of the image VAE and of the network of LPIPS."""
    discriminator: DiscriminatorConfig = dataclasses.field(default_factory=DiscriminatorConfig)
    """The discriminator of the GAN loss."""
    data: DataConfig = DataConfig()
    """Training and evaluation data."""
    loss: LossConfig = LossConfig()
    """The objective; an image VAE is trained with all of it but the compatibility loss."""
    mesh: MeshConfig = MeshConfig()
    """The devices."""
    matmul_precision: Literal["default", "high", "highest"] = "default"
    """Precision of float32 products; accelerators round to bf16 or TF32 unless `highest`."""
    seed: int = 0
    """Seed of initialization, data order and noise."""
    workdir: str = "runs/default"
    """The run folder; one that holds a checkpoint is continued."""
    wandb: str | None = None
    """Project of Weights & Biases that metrics also go to; needs `pip install wandb`."""
    profile: int = 0
    """Steps of each stage that jax.profiler traces, from the first one on whose program is compiled
    already; XProf shows what is in the run folder's `tensorboard/`."""

    def __post_init__(self):
        expand_home(self, "image_vae", "init_weights", "lpips", "workdir")
        at_least(self, 0, "seed", "profile")

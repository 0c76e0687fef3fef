"""Settings of a training run: objective, optimizers, stages, devices, and the run itself."""

import dataclasses
import re
from typing import Literal

from cvvae_jax.config.checks import at_least
from cvvae_jax.config.compatibility import CompatTerm, compat_weights, named_layers
from cvvae_jax.config.data import Bucket, DataConfig
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
"""A metric and what it compares with the video, as evaluations name their scores."""
Mapping = Literal["first", "slice", "mean", "random"]
"""The paper's psi: how frames are chosen for latent frames (see `losses.compat_targets`)."""


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The training objective. Errors are summed over a frame's pixels and averaged over frames.

    Defaults are those of the released official recipe, but for `gan_start_step`.
    """

    recon: Literal["l1", "l2"] = "l1"
    """Pixel error of the reconstruction: absolute or squared (released: l1)."""
    lpips_weight: float = 0.5
    """Weight of LPIPS beside the error of a pixel. A weight above 0 needs `lpips`, the weights of
    the LPIPS network (released: 0.5)."""
    log_scale: float = 0.0
    """Initial value of the learned log-scales of the reconstruction and of the image decoder's view
    (released: 0)."""
    difference_weight: float = 0.0
    """Weight of the absolute error of the differences between neighboring frames that belong to one
    latent frame; summed over pixels like the error of the reconstruction (ours)."""
    boundary_weight: float = 0.0
    """The same for neighboring frames that belong to two latent frames, 0 and 1, 4 and 5, 8 and 9,
    where flicker shows most (ours)."""
    kl_weight: float = 1.0
    """Weight of the KL divergence to a standard normal, which is summed over a clip's latents
    (released: 1)."""
    compat_mode: str = "decoder"
    """The paper's latent regularization: `none`, or terms between commas, each with `:` and its
    weight if that isn't 1 (`decoder,latent:0.1`). With `decoder`, the frozen image decoder has to
    reconstruct the video's frames from the video's latents. With `encoder`, the video decoder has
    to reconstruct the video from the frozen image encoder's latents; `both` is `decoder,encoder`.
    With `latent`, the video's posterior has to be near the image encoder's, and with `features`,
    the first layers of the image decoder have to see the same in both (paper and released:
    decoder)."""
    compat_weight: float = 1.0
    """Weight of all compatibility terms, times that of each in `compat_mode`. The encoder's loss is
    averaged with the reconstruction's, at this weight against 1; the others are added (released:
    1)."""
    compat_recon: Literal["l1", "l2"] = "l1"
    """Pixel error of the decoder's compatibility loss; the encoder's uses `recon` (released:
    l1)."""
    compat_lpips_weight: float = 0.0
    """Weight of LPIPS in the decoder's compatibility loss; the encoder's uses
    `lpips_weight` (released: 0)."""
    latent_distance: Literal["l1", "l2", "kl"] = "l1"
    """Distance of the term `latent`: absolute or squared difference of the posteriors' means, or
    the KL divergence of the video's posterior to the image encoder's, whose unit of length is the
    image encoder's standard deviation."""
    feature_layers: str = "conv_in,mid_block"
    """Layers of the image decoder that the term `features` compares, between commas: `conv_in`,
    `mid_block`, `up_blocks/00`, ..."""
    mapping: Mapping = "random"
    """The frame that the compatibility loss compares with a latent frame, of the four that the
    latent frame encodes: the last one (`slice`), a random one, or the average of all (`mean`).
    With `first`, only the video's first frame is compared. This is the paper's psi (paper and
    released: random)."""
    gan: Literal["none", "hinge", "vanilla"] = "hinge"
    """The discriminator's loss; `none` trains without a discriminator (released:
    hinge)."""
    gan_weight: float = 0.5
    """Weight of the GAN loss beside the rest of the objective. It is multiplied by the adaptive
    weight, which makes both gradients equally long at the decoder's last layer (released: 0.5)."""
    gan_start_step: int = 0
    """Step at which the GAN loss and the discriminator's training begin (released: 1, after a first
    step with the learning rate 0)."""
    gan_penalty: Literal["none", "r1", "lecam"] = "none"
    """Regularization of the discriminator: the squared gradient at real videos (R1), or the
    distance of its logits to their running averages (LeCAM); the official code has none."""
    gan_penalty_weight: float = 1.0
    """Weight of `gan_penalty`."""

    def __post_init__(self):
        at_least(
            self,
            0,
            "lpips_weight",
            "difference_weight",
            "boundary_weight",
            "kl_weight",
            "compat_weight",
            "compat_lpips_weight",
            "gan_weight",
            "gan_start_step",
            "gan_penalty_weight",
        )
        compat_weights(self.compat_mode)
        named_layers(self.feature_layers)

    @property
    def compat_terms(self) -> dict[CompatTerm, float]:
        """The terms of compatibility with their weights, `compat_weight` included."""
        return {n: self.compat_weight * w for n, w in compat_weights(self.compat_mode).items()}

    @property
    def needs_lpips(self) -> bool:
        """Whether the objective has an LPIPS term."""
        compat = "decoder" in self.compat_terms and self.compat_lpips_weight > 0
        return self.lpips_weight > 0 or compat


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for one network, with global-norm clipping and a schedule of the learning rate.

    Defaults are ours where they differ from the values in parentheses.
    """

    learning_rate: float = 1e-4
    """Peak learning rate (paper: 1e-4; released: 4e-5)."""
    schedule: Literal["constant", "cosine", "cosine_unclamped"] = "cosine"
    """The schedule after the warm-up: the peak; a cosine that falls to `final_fraction` at
    `period_steps` and stays there; or a cosine that rises again after that (paper: cosine;
    released: cosine_unclamped)."""
    warmup_steps: int = 100
    """Steps in which the learning rate rises linearly from zero to the peak (released: 1000)."""
    period_steps: int | None = None
    """Step at which the cosine reaches its floor; if unset, the last step of the run (released:
    60,000)."""
    final_fraction: float = 0.01
    """The cosine's floor as a fraction of the peak (released: 0.005)."""
    beta1: float = 0.9
    """Decay of AdamW's first moment (released: 0.9)."""
    beta2: float = 0.98
    """Decay of AdamW's second moment (released: 0.98)."""
    eps: float = 1e-8
    """AdamW's epsilon (released: 1e-4)."""
    weight_decay: float = 0.01
    """AdamW's weight decay (released: 0.01)."""
    clip_norm: float = 1.0
    """Largest global norm of a gradient; longer gradients are scaled down to it (released: 1)."""

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
    """One training stage: its batches, optimizers, checkpoints and evaluations."""

    steps: int
    """Number of training steps, each on one batch."""
    buckets: tuple[Bucket, ...]
    """Shapes of batches, mixed by their weights."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer of the VAE and of the log-scales."""
    gan_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-5, schedule="constant")
    """Optimizer of the discriminator (released: a constant rate of 2e-5 without a warm-up)."""
    trainable: str = "all"
    """The parameters of the VAE that are trained: `all`, `decoder`, `encoder`, `last-layer` (the
    decoder's last convolution), or a regular expression for whole paths of parameters, such as
    `decoder/conv_out/kernel`. The others are frozen: they stay the same to the bit, and have no
    gradients, moments or averages (paper and released: all)."""
    updates: Literal["alternate", "joint"] = "alternate"
    """Which network a step updates when there is a GAN: `alternate` updates the VAE in even steps
    and the discriminator in odd ones; `joint` updates both in every step, from one forward pass
    (released: alternate)."""
    accumulate: int = 1
    """Number of equal parts in which a batch is computed, one after the other, to save memory. The
    result is the same but for rounding."""
    remat: Remat = "none"
    """Activations that the backward pass computes again, to save memory: none of them, those inside
    of blocks (`blocks`), or all but the inputs of resolution levels (`full`)."""
    ema_decay: float = 0.999
    """Decay of the averaged parameters. It begins small, at
    min(decay, (1 + updates) / (10 + updates))."""
    max_skipped: int = 20
    """Number of updates in a row that may be skipped because the loss or a gradient is not finite.
    Then the run goes back to its last checkpoint and on with other data; the second time it
    stops."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints that are kept; `keep_every` and `keep_best` keep more."""
    keep_every: int | None = None
    """Checkpoints at multiples of this step are kept for ever."""
    keep_best: BestBy | None = None
    """A score on unseen clips; the checkpoint where it is highest is kept, too. Only steps with
    both an evaluation and a checkpoint take part."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl, and between TensorBoard scalars."""
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
        try:
            re.compile(self.trainable)
        except re.error as error:
            raise ConfigError(
                f"trainable must be all, decoder, encoder, last-layer or a regular expression, not "
                f"{self.trainable} ({error})."
            ) from error
        if not self.buckets:
            raise ConfigError("buckets must hold one shape of batches or more.")
        for bucket in self.buckets:
            if bucket.batch % self.accumulate:
                raise ConfigError(
                    f"a batch of {bucket.batch} can't be taken in {self.accumulate} equal parts "
                    "(accumulate)."
                )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged. Batches are split over `data` and `fsdp`, parameters over `fsdp`,
    and the rows of frames over `space`. Results don't depend on it, but for rounding."""

    data: int = -1
    """Number of devices along the data axis; -1 takes all that the other two axes leave."""
    fsdp: int = 1
    """Number of devices that share one copy of the parameters, moments and averages."""
    space: int = 1
    """Number of devices that share a clip, each with some of its rows, for clips whose activations
    don't fit into one device's memory."""

    def __post_init__(self):
        at_least(self, 1, "fsdp", "space")
        if self.data < 1 and self.data != -1:
            raise ConfigError(f"mesh.data must be 1 or more, or -1 for all, not {self.data}.")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A whole run: an image VAE is loaded, or trained in a first stage, then a video VAE is trained
    to be compatible with it.

    Values that are called `released` are those of the official SD3 recipe, `paper` those of the
    paper. The other defaults are ours, or the recipe's.
    """

    image_model: ImageVAEConfig
    """The frozen image VAE as the run trains it; without effect where `image_vae` is set."""
    model: VideoVAEConfig
    """The video VAE. What a recipe leaves out is as in the official SD2.1 family."""
    image_train: StageConfig
    """Stage 1, which trains the image VAE; skipped where `image_vae` is set."""
    train: StageConfig
    """Stage 2, which trains the video VAE."""
    image_vae: str | None = None
    """Weights of the image VAE to be compatible with, ours or PyTorch's."""
    image_only: bool = False
    """Whether the run ends with stage 1: it leaves an image VAE in the run folder's `image_vae/`.
    The same run without this setting goes on with stage 2."""
    init: Literal["inflate", "random"] = "inflate"
    """What the video VAE starts from: the image VAE's weights, inflated (the paper's way), or
    random weights."""
    init_weights: str | None = None
    """Weights of a video VAE to start from in place of `init`, ours or PyTorch's. Their
    architecture must be that of `model`."""
    lpips: str | None = None
    """Weights of the LPIPS network; without them `loss.lpips_weight` must be 0."""
    frozen_dtype: DType = "float32"
    """Type of the computation of the image VAE and of the LPIPS network."""
    discriminator: DiscriminatorConfig = dataclasses.field(default_factory=DiscriminatorConfig)
    """The discriminator of the GAN loss. What a recipe leaves out is as in the official model."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """Training and evaluation data."""
    loss: LossConfig = LossConfig()
    """The objective. An image VAE is trained with all terms but the compatibility loss."""
    mesh: MeshConfig = MeshConfig()
    """How devices are arranged."""
    matmul_precision: Literal["default", "high", "highest"] = "default"
    """Precision of float32 products; accelerators round to bfloat16 or TF32 unless it is
    `highest`."""
    seed: int = 0
    """Seed of the initial parameters, the order of data, and all noise."""
    workdir: str = "runs/default"
    """The run folder; a run that has a checkpoint there goes on from it."""
    wandb: str | None = None
    """Project of Weights & Biases that metrics also go to; needs `pip install wandb`."""
    profile: int = 0
    """Number of steps of each stage that jax.profiler traces, beginning with the first one whose
    program is compiled already. XProf shows the trace, in the run folder's `tensorboard/`."""

    def __post_init__(self):
        expand_home(self, "image_vae", "init_weights", "lpips", "workdir")
        at_least(self, 0, "seed", "profile")
        if self.image_only and self.image_vae is not None:
            raise ConfigError(
                "image_only trains an image VAE, and image_vae names one that is trained already: "
                "leave one of the two out."
            )

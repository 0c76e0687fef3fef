"""Settings of the study: the full one, whose budget README.md has, and a smoke test."""

import dataclasses
from pathlib import Path
from typing import Literal

from cvvae_jax.config import LossConfig
from studies.latent_diffusion import DiTConfig, Trainer
from studies.sprites import LABELS, Split, Sprites

Kind = Literal["compatible", "encoder", "inflated", "random"]

KINDS: tuple[Kind, ...] = ("compatible", "encoder", "inflated", "random")
"""The four video VAEs."""
TWINS: tuple[Kind, ...] = ("inflated", "random")
STARTS = dict.fromkeys(KINDS, "inflate") | {"random": "random"}
MODES = dict.fromkeys(KINDS, "none") | {"compatible": "decoder", "encoder": "encoder"}
TUNED = {"output": (".last",), "temporal": (".time",), "all": ()}
"""Parts of the video model that tuning changes, by what their parameters' paths hold."""
LEVELS = tuple(round(0.1 * k, 1) for k in range(1, 10))
"""Levels of noise of the denoising loss."""
GROUP = 4
"""Frames of a latent frame after the first."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """All sizes of the study."""

    images: dict[int, str]
    """Name of the image VAE of every seed."""
    share_vaes: bool = False
    """Whether all seeds have the first one's video VAEs, the encoder mode the compatible one's, and
    the inflated twin the random one's. For the smoke test alone, since training takes most of its
    time."""
    block_channels: tuple[int, ...] = (16, 32, 32)
    """Channels of the VAEs' levels."""
    latent_channels: int = 16
    """Channels of latents."""
    size: int = 32
    """Height and width of clips in pixels."""
    frames: int = 17
    """Frames of a clip."""
    vae_frames: int = 9
    """Frames of the clips that video VAEs are trained on."""
    sprites: int = 1500
    """Clips of sprites that VAEs are trained on."""
    photographs: int = 500
    """Clips of moving photographs beside them."""
    held_out: int = 64
    """Clips that VAEs' reconstruction is followed on."""
    image_steps: int = 3000
    """Steps of an image VAE."""
    vae_steps: int = 2040
    """Steps of a video VAE."""
    evaluations: int = 12
    """How often its reconstruction is measured meanwhile; the last third judges the plateau."""
    vae_batch: int = 4
    """Clips of a video VAE's batch; batches of images have twice as many."""
    mixed: bool = True
    """Whether one batch in four is of images."""
    classifier_steps: int = 1500
    """Batches of the classifier."""
    pool: int = 4000
    """Clips whose latents the diffusion models are trained on."""
    width: int = 96
    """Width of the diffusion models."""
    depth: int = 4
    """Their number of blocks."""
    image_model_steps: int = 5000
    """Steps of an image diffusion model."""
    image_batch: int = 64
    """Latent frames of its batch."""
    video_model_steps: int = 3000
    """Steps of a video diffusion model."""
    video_batch: int = 12
    """Clips of its batch, and of tuning's."""
    tuning_steps: int = 300
    """Steps of tuning."""
    tuned: tuple[str, ...] = tuple(TUNED)
    """Parts of the video model that are tuned."""
    tuning_pool: int = 1000
    """Clips that tuning is done on."""
    tests: int = 512
    """Clips of measures of latents, and of samples of videos."""
    samples: int = 1000
    """Images that are sampled, and real ones that they are compared with."""
    sample_steps: int = 25
    """Steps of Heun's method."""

    def vae_of(self, kind: Kind, seed: int) -> tuple[Kind, int]:
        """The kind and seed of the video VAE that was trained for these: the same."""
        stands_for = {"encoder": "compatible", "inflated": "random"}
        return (stands_for.get(kind, kind), min(self.images)) if self.share_vaes else (kind, seed)

    @property
    def latent_size(self) -> int:
        """Height and width of latents."""
        return self.size // 2 ** (len(self.block_channels) - 1)

    @property
    def key_frames(self) -> slice:
        """The frames that latent frames are compared with: the first, then each group's last."""
        return slice(0, self.frames, GROUP)

    def clips(self, split: Split) -> Sprites:
        """The sprites of a split."""
        return Sprites(self.frames, self.size, split)

    def image_model(self) -> DiTConfig:
        """The image diffusion model, with shapes and colors for labels."""
        return DiTConfig(
            size=self.latent_size,
            channels=self.latent_channels,
            labels=LABELS[:2],
            width=self.width,
            depth=self.depth,
        )

    def image_trainer(self) -> Trainer:
        """How it is trained."""
        return Trainer(self.image_model_steps)

    def video_trainer(self) -> Trainer:
        """How the video diffusion model is trained."""
        return Trainer(self.video_model_steps, learning_rate=5e-4)

    def tuning(self, part: str) -> Trainer:
        """How a part of the video diffusion model is tuned to other latents."""
        return Trainer(
            self.tuning_steps,
            learning_rate=5e-4,
            warmup=20,
            ema_decay=0.98,
            without_labels=0.1,
            trained=TUNED[part],
        )

    def loss(self, kind: Kind | None) -> LossConfig:
        """The objective of a video VAE, or, for None, of an image VAE."""
        mode = "none" if kind is None else MODES[kind]
        return LossConfig(kl_weight=1e-3, lpips_weight=0.0, gan="none", compat_mode=mode)


FULL = Settings(images=dict.fromkeys(range(5), "a") | {5: "b"})
SMOKE = Settings(
    images={0: "a", 1: "a"},
    share_vaes=True,
    block_channels=(8, 8, 8),
    latent_channels=4,
    size=16,
    frames=9,
    vae_frames=5,
    sprites=12,
    photographs=4,
    held_out=4,
    image_steps=4,
    vae_steps=6,
    evaluations=6,
    vae_batch=2,
    mixed=False,
    classifier_steps=4,
    pool=16,
    width=16,
    depth=1,
    image_model_steps=6,
    image_batch=8,
    video_model_steps=6,
    video_batch=4,
    tuning_steps=3,
    tuned=("output",),
    tuning_pool=8,
    tests=16,
    samples=16,
    sample_steps=2,
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where everything of a run of the study lies."""

    out: Path
    """The out folder."""

    def clips(self, part: Literal["train", "held_out"]) -> Path:
        """Clips of the VAEs' training."""
        return self.out / "clips" / part

    @property
    def classifier(self) -> Path:
        """The classifier's weights."""
        return self.out / "classifier.npz"

    def image_run(self, name: str) -> Path:
        """The run folder that an image VAE was trained in."""
        return self.out / "image_vae" / name

    def vae_run(self, kind: Kind, seed: int) -> Path:
        """The run folder of a video VAE."""
        return self.out / "vae" / f"{kind}_{seed}"

    def pool(self, image: str) -> Path:
        """Latents of an image VAE that diffusion models are trained on."""
        return self.out / "latents" / f"{image}.npz"

    def of_seed(self, seed: int, name: str) -> Path:
        """A file of a seed."""
        return self.out / f"seed_{seed}" / name

    def of_vae(self, kind: Kind, seed: int, name: str) -> Path:
        """A file of a video VAE."""
        return self.out / f"seed_{seed}" / kind / name

    def results(self, name: str) -> Path:
        """A table or a figure."""
        return self.out / "results" / name

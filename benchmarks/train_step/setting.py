"""What is timed: recipes, batches, precisions, and the networks, all of them random."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cvvae_jax import parameter_paths
from cvvae_jax.config import Bucket, LPIPSConfig, Remat, TrainConfig, VideoVAEConfig
from cvvae_jax.convert.convert import abstract_model
from cvvae_jax.hardware import count_flops
from cvvae_jax.models.conv_forms import reference_convolutions
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.feature_networks import vgg
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.recipe import load_recipe
from cvvae_jax.training.jobs import Job, video_shape
from cvvae_jax.training.state import Frozen, Optimizers, TrainState

Side = Literal["jax", "torch"]
Family = Literal["sd3", "sd21"]
Kind = Literal["video", "images"]
Updates = Literal["alternate", "joint"]
Precision = Literal["highest", "default", "bfloat16"]
"""float32 with exact products; float32 with products as the device likes them (TF32 on GPUs, one
pass of bfloat16 on TPUs); bfloat16 with float32 parameters."""

BUCKETS = {"video": Bucket(frames=17, size=256, batch=1), "images": Bucket(1, 320, 8)}
# A step of a fraction of a second on two CPU cores.
_TINY_BUCKETS = {"video": Bucket(frames=9, size=64, batch=1), "images": Bucket(1, 64, 8)}
_TINY_VAE = {"block_channels": (8, 16, 32, 32), "norm_groups": 8, "blocks_per_level": 1}
_TINY_DISCRIMINATOR = {"base_channels": 8, "norm_groups": 8}
_TINY_LPIPS = ((4,), (8,), (16,), (32,), (32,))
_NORM_GROUPS = 32  # the official number


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: one way to train on one kind of batch."""

    side: Side
    kind: Kind
    updates: Updates
    precision: Precision
    remat: Remat
    family: Family
    tiny: bool
    devices: int
    widths: tuple[int, ...] = ()
    """Channels of the levels of both VAEs, which then have the official depth; the discriminator
    and LPIPS are narrower in proportion."""

    @property
    def bucket(self) -> Bucket:
        """The global batch: every device has a whole one."""
        bucket = (_TINY_BUCKETS if self.tiny else BUCKETS)[self.kind]
        return dataclasses.replace(bucket, batch=bucket.batch * self.devices)

    @property
    def programs(self) -> tuple[Any, ...]:
        """The kinds of steps that take turns."""
        return ("joint",) if self.updates == "joint" else ("generator", "discriminator")

    @property
    def config(self) -> TrainConfig:
        """The family's recipe, with this row's batch, precision and policy."""
        recipe = Path(__file__).parents[2] / "configs" / f"{self.family}.py"
        config = load_recipe(str(recipe))
        dtype = "bfloat16" if self.precision == "bfloat16" else "float32"
        vae = {"dtype": dtype} | (_TINY_VAE if self.tiny else {})
        discriminator = {"dtype": dtype} | (_TINY_DISCRIMINATOR if self.tiny else {})
        if self.widths:
            base = self.widths[0] // 2
            vae = {"dtype": dtype, "block_channels": self.widths}
            vae["norm_groups"] = min(_NORM_GROUPS, self.widths[0])
            discriminator |= {"base_channels": base, "norm_groups": min(_NORM_GROUPS, base)}
        train = {"updates": self.updates, "remat": self.remat, "buckets": (self.bucket,)}
        return dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, **vae),
            image_model=dataclasses.replace(config.image_model, **vae),
            discriminator=dataclasses.replace(config.discriminator, **discriminator),
            frozen_dtype=dtype,
            train=dataclasses.replace(config.train, **train),
            matmul_precision="highest" if self.precision == "highest" else "default",
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Networks:
    """All networks of a row."""

    model: VideoVAE
    discriminator: Discriminator
    frozen: Frozen

    @classmethod
    def abstract(cls, row: Row) -> "Networks":
        """Their shapes and types."""
        config, official = row.config, vgg.LEVELS
        vgg.LEVELS = _lpips_levels(row, official)
        try:
            lpips = abstract_model(vgg.LPIPS, LPIPSConfig(dtype=config.frozen_dtype))
        finally:
            vgg.LEVELS = official
        return cls(
            abstract_model(VideoVAE, config.model),
            abstract_model(Discriminator, config.discriminator),
            Frozen(abstract_model(ImageVAE, config.image_model), lpips),
        )

    @classmethod
    def random(cls, row: Row) -> "Networks":
        """The same ones every time, in numpy: drawing them takes seconds, where compiling their
        initializers takes minutes on a CPU."""
        rng = np.random.default_rng(0)
        abstract = cls.abstract(row)
        leaves = parameter_paths.flatten(abstract).items()
        return parameter_paths.unflatten(
            abstract, {path: random_array(rng, path, leaf) for path, leaf in leaves}
        )

    def state(self, config: TrainConfig) -> TrainState:
        """Of the first step."""
        optimizers = Optimizers.create(config.train)
        log_scale = config.loss.log_scale
        return TrainState.create(
            self.model,
            self.discriminator,
            optimizers,
            log_scale=log_scale,
            trainable=config.train.trainable,
        )


def _lpips_levels(row: Row, official: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """As much narrower than the official ones as the VAEs are."""
    if row.widths:
        wider = VideoVAEConfig().block_channels[0] // row.widths[0]
        return tuple(tuple(channels // wider for channels in level) for level in official)
    return _TINY_LPIPS if row.tiny else official


def random_array(rng: np.random.Generator, path: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    """A kernel that keeps the size of what it is applied to, a scale of 1, or a bias of 0."""
    if not path.endswith("kernel"):
        return np.full(leaf.shape, path.endswith("scale"), leaf.dtype)
    bound = math.sqrt(3 / math.prod(leaf.shape[:-1]))
    kernel = rng.uniform(-bound, bound, leaf.shape).astype(leaf.dtype)
    return abs(kernel) if "heads" in path else kernel


def job_of(config: TrainConfig, mesh: Mesh) -> Job:
    """What the training code takes for a stage of a run."""
    return Job(
        title="video VAE",
        folder=Path(),
        stage=config.train,
        loss=config.loss,
        create=lambda *_: None,
        start=None,
        discriminator=config.discriminator,
        mesh=mesh,
        clips=None,
    )


def random_batch(bucket: Bucket) -> dict[str, np.ndarray]:
    """Noise, with the records' seeds."""
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, video_shape(bucket), np.uint8)
    return {"video": video, "seed": np.arange(bucket.batch, dtype=np.uint32)}


@functools.cache
def forward_flops(row: Row) -> float:
    """Operations of the video VAE's encoder and decoder alone, on the batch."""
    model = abstract_model(VideoVAE, row.config.model)
    video = jax.ShapeDtypeStruct(video_shape(row.bucket), jnp.float32)
    run = jax.make_jaxpr(lambda model, video: model.decode(model.encode(video).mode()))
    with reference_convolutions():
        return count_flops(run(model, video))


def official_flops(row: Row) -> dict[str, float]:
    """What a step of every kind takes of the video VAE: a forward pass, and two more for the
    backward pass where it is trained.

    Not in it are the discriminator, the frozen networks, and whatever is computed twice.
    """
    forward = forward_flops(row)
    passes = {"generator": 3, "discriminator": 1, "joint": 3}
    return {program: passes[program] * forward for program in row.programs}

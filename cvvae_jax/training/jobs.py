"""What a run is going to do, checked before anything is trained or written."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cvvae_jax import parameter_paths, sharding, split_frames
from cvvae_jax.config import (
    Bucket,
    DiscriminatorConfig,
    ImageVAEConfig,
    LossConfig,
    StageConfig,
    TrainConfig,
    VideoVAEConfig,
)
from cvvae_jax.config.latent_scale import latent_scale
from cvvae_jax.data.pipeline import batches, eval_clips
from cvvae_jax.data.sources import HeldOutByKind
from cvvae_jax.errors import UserError
from cvvae_jax.metrics.image import SSIM_WINDOW
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.feature_networks.vgg import SPATIAL_COMPRESSION
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE, inflate
from cvvae_jax.training.gradients import Update
from cvvae_jax.training.run_data import known_sides
from cvvae_jax.training.state import Frozen, Optimizers, Streams, TrainState
from cvvae_jax.training.trackers import require_wandb
from cvvae_jax.training.weights import (
    Weights,
    abstract_network,
    frozen_config,
    open_image_vae,
    open_lpips,
    open_start,
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One stage of a run: what is trained, on what, and where."""

    title: str
    """What messages call it."""
    folder: Path
    """Its run folder."""
    stage: StageConfig
    """Its batches, optimizers and rhythm."""
    loss: LossConfig
    """Its objective."""
    create: Callable[[jax.Array, ImageVAE | None, VAE | None], VAE]
    """Makes the untrained model, from a key, the frozen image VAE and weights to start from."""
    start: Weights | None
    """The weights to start from."""
    discriminator: DiscriminatorConfig | None
    """The network to train against; None without a GAN."""
    mesh: Mesh
    """The devices."""
    clips: np.ndarray | None
    """Unseen clips to evaluate on: uint8 (n, t, h, w, 3); None in plans of runs to come."""
    known: HeldOutByKind = dataclasses.field(default_factory=dict)
    """Which files the run has held out so far, and which it was trained on, by kind."""

    @property
    def updates(self) -> tuple[Update, ...]:
        """The kinds of steps that it has."""
        if self.discriminator is None:
            return ("plain",)
        if self.loss.gan_start_step >= self.stage.steps:
            return ("plain",)
        before = ("plain",) if self.loss.gan_start_step else ()
        if self.stage.updates == "joint":
            return (*before, "joint")
        return (*before, "generator", "discriminator")

    @property
    def in_pairs(self) -> bool:
        """Whether two steps in a row share a bucket, since they train one network each."""
        return self.discriminator is not None and self.stage.updates == "alternate"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A whole run."""

    image: Job | None
    """Training the image VAE; None where it is loaded."""
    video: Job
    """Training the video VAE."""
    image_vae: Weights | None
    """The image VAE to load."""
    image_config: ImageVAEConfig
    """The image VAE's architecture."""
    lpips: Weights | None
    """The network of LPIPS."""
    missing: tuple[str, ...]
    """What isn't there yet, in words."""


def plan_run(
    config: TrainConfig, *, allow_missing: bool = False, devices: list | None = None
) -> Plan:
    """The jobs of a run.

    Args:
        config: the run.
        allow_missing: weights and data that are not there are listed rather than refused; the image
            VAE is then taken to be `config.image_model`.
        devices: what it is planned for, in place of jax's own; they needn't be there.

    Raises:
        UserError: models, batches, devices, data and objective don't fit each other.
    """
    require_wandb(config.wandb)
    missing = [] if allow_missing else None
    image_vae = open_image_vae(config, missing)
    image_config = config.image_model if image_vae is None else image_vae.abstract.config
    video_config = _in_the_space_of(image_config, config.model)
    start = open_start(config, video_config, missing)
    lpips = open_lpips(config, missing)

    def create_image(key: jax.Array, _: None, start: None) -> ImageVAE:
        return ImageVAE(image_config, rngs=nnx.Rngs(key))

    def create_video(key: jax.Array, frozen: ImageVAE, start: VideoVAE | None) -> VideoVAE:
        if start is not None:
            target = jax.eval_shape(lambda key: VideoVAE(video_config, rngs=nnx.Rngs(key)), key)
            leaves, types = parameter_paths.flatten(start), parameter_paths.flatten(target)
            return parameter_paths.unflatten(
                target, {p: x.astype(types[p].dtype) for p, x in leaves.items()}
            )
        if config.init == "inflate":
            return inflate(frozen, video_config, rngs=nnx.Rngs(key))
        return VideoVAE(video_config, rngs=nnx.Rngs(key))

    folder = Path(config.workdir)
    video = _job(
        "video VAE",
        config.train,
        config.loss,
        config,
        folder,
        create_video,
        start,
        missing,
        devices,
    )
    _check_job(video, video_config)
    _check_inflation(create_video, image_config, start)
    image = None
    if image_vae is None:
        alone = dataclasses.replace(config.loss, compat_mode="none")
        folder, stage = folder / "image_vae", config.image_train
        image = _job(
            "image VAE", stage, alone, config, folder, create_image, None, missing, devices
        )
        _check_job(image, image_config)
    return Plan(image, video, image_vae, image_config, lpips, tuple(missing or ()))


def on_mesh(tree: Any, mesh: Mesh) -> Any:
    """Networks laid out on the devices; not copied where they lie that way already."""
    return jax.tree.map(_on_devices, tree, sharding.shardings(tree, mesh))


def _on_devices(leaf: jax.Array, layout: NamedSharding) -> jax.Array:
    """An array in another layout; several processes move it to other devices through the host."""
    if leaf.is_fully_addressable or leaf.sharding.device_set == layout.device_set:
        return jax.device_put(leaf, layout)
    whole = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    values = np.asarray(jax.device_put(leaf, whole))
    return jax.make_array_from_callback(values.shape, layout, lambda index: values[index])


def load_image_vae(plan: Plan, trained: ImageVAE | None, config: TrainConfig) -> ImageVAE:
    """The frozen image VAE on the video VAE's devices: the trained one where there is none to
    load."""
    if plan.image_vae is not None:
        return plan.image_vae.load(plan.video.mesh)
    target = abstract_network(ImageVAE, frozen_config(plan.image_config, config))
    frozen = parameter_paths.unflatten(target, parameter_paths.flatten(trained))
    return on_mesh(frozen, plan.video.mesh)


def initial_state(job: Job, frozen: Frozen, start: VAE | None, *, seed: int) -> TrainState:
    """The state before the first step; `start` are the weights of `job.start`."""
    streams = Streams.create(seed)
    model = job.create(streams.init, frozen.image_vae, start)
    discriminator = None
    if job.discriminator is not None:
        discriminator = Discriminator(job.discriminator, rngs=nnx.Rngs(streams.discriminator))
    optimizers = Optimizers.create(job.stage)
    return TrainState.create(model, discriminator, optimizers, log_scale=job.loss.log_scale)


def _in_the_space_of(image: ImageVAEConfig, video: VideoVAEConfig) -> VideoVAEConfig:
    """The video VAE's config with the latent scale of the image VAE, whose space it shares."""
    for name in ("latent_channels", "spatial_compression"):
        ours, theirs = getattr(video, name), getattr(image, name)
        if ours != theirs:
            raise UserError(
                f"the video VAE's {name} is {ours}, the image VAE's {theirs}; "
                "compatible latents need the same."
            )
    return dataclasses.replace(video, **latent_scale(image))


def _job(
    title: str,
    stage: StageConfig,
    loss: LossConfig,
    config: TrainConfig,
    folder: Path,
    create: Callable,
    start: Weights | None,
    missing: list[str] | None,
    devices: list | None,
) -> Job:
    clips, known = None, known_sides(Path(config.workdir))
    try:
        batches(  # raises what is wrong with it
            stage,
            config.data,
            seed=config.seed,
            start_step=0,
            process_count=jax.process_count(),
            known=known,
        )
        clips = eval_clips(stage, config.data, known) if missing is None else None
    except UserError as error:
        if missing is None:
            raise
        missing.append(f"data of the {title}: {error}")
    sizes = tuple(bucket.batch for bucket in stage.buckets)
    mesh = sharding.make_mesh(
        config.mesh, batches=sizes, accumulate=stage.accumulate, devices=devices
    )
    discriminator = None if loss.gan == "none" else config.discriminator
    return Job(title, folder, stage, loss, create, start, discriminator, mesh, clips, known)


def _check_job(job: Job, model: ImageVAEConfig | VideoVAEConfig) -> None:
    """Raises what no step could be made of."""
    for setting in ("dtype", "decoder_dtype", "param_dtype"):
        if getattr(model, setting) == "float16":
            raise UserError(
                f"the {job.title}'s {setting} is float16, which overflows in training; float32 and "
                "bfloat16 don't."
            )
    for bucket in job.stage.buckets:
        _check_bucket(job, bucket, model)
    _check_score(job, model)


def _check_score(job: Job, model: ImageVAEConfig | VideoVAEConfig) -> None:
    """Raises if the score that a checkpoint is to be kept by is none of the evaluations'."""
    name = job.stage.keep_best
    if name is None:
        return
    metric, _, rival = name.partition("_")
    if rival != "recon" and not isinstance(model, VideoVAEConfig):
        raise UserError(f"keep_best is {name}, but of the {job.title} only recon is measured.")
    if metric == "ssim" and job.clips is not None and min(job.clips.shape[2:4]) < SSIM_WINDOW:
        raise UserError(
            f"keep_best is {name}, but SSIM takes frames of {SSIM_WINDOW} x {SSIM_WINDOW} pixels "
            "and more; psnr takes any."
        )


def _check_bucket(job: Job, bucket: Bucket, model: ImageVAEConfig | VideoVAEConfig) -> None:
    space, time = model.spatial_compression, model.temporal_compression
    name = f"a bucket of {bucket.frames} frames of {bucket.height} x {bucket.width}"
    if bucket.height % space or bucket.width % space or (bucket.frames - 1) % time:
        raise UserError(
            f"{name} doesn't fit the {job.title}: 1 + {time}k frames and multiples of {space} "
            "pixels do."
        )
    if job.loss.needs_lpips and min(bucket.height, bucket.width) < SPATIAL_COMPRESSION:
        size = f"{SPATIAL_COMPRESSION} x {SPATIAL_COMPRESSION}"
        raise UserError(f"{name} is too small for LPIPS, which takes {size} pixels and more.")
    if job.discriminator is not None:
        video = jax.ShapeDtypeStruct((1, *video_shape(bucket)[1:]), jnp.float32)
        network = abstract_network(Discriminator, job.discriminator)
        if 0 in jax.eval_shape(lambda network, video: network(video), network, video).shape:
            raise UserError(
                f"{name} is too small for a discriminator of {job.discriminator.layers} layers "
                "(discriminator.layers)."
            )
    devices = job.mesh.shape[split_frames.AXIS]
    multiple = devices * _rows_of_a_position(job, model)
    if devices > 1 and bucket.height % multiple:
        raise UserError(
            f"{name} can't be split over {devices} devices (mesh.space): every device needs as "
            f"many rows at the coarsest grid of every network, so that heights are multiples of "
            f"{multiple}."
        )


def _rows_of_a_position(job: Job, model: ImageVAEConfig | VideoVAEConfig) -> int:
    """Rows of the video that one row of the coarsest grid stands for; all are powers of 2."""
    coarsest = [model.spatial_compression]
    if job.discriminator is not None:
        coarsest.append(job.discriminator.spatial_compression)
    if job.loss.needs_lpips:
        coarsest.append(SPATIAL_COMPRESSION)
    return max(coarsest)


def video_shape(bucket: Bucket) -> tuple[int, ...]:
    """The global batch of a bucket: (b, t, h, w, 3)."""
    return (bucket.batch, bucket.frames, bucket.height, bucket.width, 3)


def _check_inflation(create: Callable, image: ImageVAEConfig, start: Weights | None) -> None:
    """Raises what doesn't fit when the video VAE is made."""
    start_model = start.abstract if start else None
    jax.eval_shape(create, jax.random.key(0), abstract_network(ImageVAE, image), start_model)

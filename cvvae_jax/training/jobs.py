"""The plan of a run: its training jobs, checked before anything is trained or written."""

import dataclasses
import functools
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
from cvvae_jax.training.latent_terms import check_layers
from cvvae_jax.training.run_folder import earlier_sides
from cvvae_jax.training.state import Frozen, Optimizers, RandomKeys, TrainState
from cvvae_jax.training.step import Update
from cvvae_jax.training.trackers import require_wandb
from cvvae_jax.training.trainable import check_chosen
from cvvae_jax.training.weights import (
    Weights,
    abstract_network,
    frozen_config,
    open_image_vae,
    open_lpips,
    open_start,
)

_IMAGE_VAE, _VIDEO_VAE = "image VAE", "video VAE"  # titles


@dataclasses.dataclass(frozen=True)
class Job:
    """One stage of a run: the training of one VAE."""

    title: str
    """The stage's name in messages."""
    folder: Path
    """The stage's run folder."""
    stage: StageConfig
    """Batches, optimizers, and steps between checkpoints and evaluations."""
    loss: LossConfig
    """Settings of the objective."""
    create: Callable[[jax.Array, ImageVAE | None, VAE | None], VAE]
    """Makes the untrained model from a key, the frozen image VAE and the weights of `start`."""
    start: Weights | None
    """Weights to start from; None where there are none to load."""
    discriminator: DiscriminatorConfig | None
    """The network to train against; None without a GAN."""
    mesh: Mesh
    """The devices."""
    clips: np.ndarray | None
    """Unseen clips to evaluate on: uint8 (n, t, h, w, 3); None where the data may be missing."""
    known: HeldOutByKind = dataclasses.field(default_factory=dict)
    """The files that the run has held out so far, and those that it trained on, by kind."""

    @property
    def setting(self) -> str:
        """The name of the stage's settings in the configuration."""
        return "image_train" if self.title == _IMAGE_VAE else "train"

    @property
    def updates(self) -> tuple[Update, ...]:
        """All values that `update_of` takes in the course of the stage."""
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
        """Whether two steps in a row, which train one network each, share a bucket."""
        return self.discriminator is not None and self.stage.updates == "alternate"


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """A whole run."""

    image: Job | None
    """Training the image VAE; None where it is loaded."""
    video: Job | None
    """Training the video VAE; None where the run ends with the image VAE."""
    image_vae: Weights | None
    """The image VAE to load."""
    image_config: ImageVAEConfig
    """The image VAE's architecture."""
    lpips: Weights | None
    """The network of LPIPS."""
    missing: tuple[str, ...]
    """Weights and data that are not there yet, a message for each."""

    @property
    def last(self) -> Job:
        """The job whose scores are the run's."""
        return self.video or self.image


def plan_run(
    config: TrainConfig, *, allow_missing: bool = False, devices: list | None = None
) -> RunPlan:
    """Plans a run, and checks that it can be trained.

    Args:
        config: the run.
        allow_missing: list weights and data that are not there, rather than refusing them; a
            missing image VAE is then assumed to be `config.image_model`.
        devices: devices to plan for, in place of jax's own; they may be described ones.

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
    make_job = functools.partial(
        _job, config=config, known=earlier_sides(folder), missing=missing, devices=devices
    )
    video = image = None
    if not config.image_only:
        video = make_job(_VIDEO_VAE, folder, config.train, config.loss, create_video, start)
        _check_job(video, video_config)
        _check_trainable(video, VideoVAE, video_config)
        _check_inflation(create_video, image_config, start)
    if image_vae is None:
        loss = dataclasses.replace(config.loss, compat_mode="none")
        folder = folder / "image_vae"
        image = make_job(_IMAGE_VAE, folder, config.image_train, loss, create_image, None)
        _check_job(image, image_config)
        _check_trainable(image, ImageVAE, image_config)
    check_layers(abstract_network(ImageVAE, image_config), config.loss)
    return RunPlan(image, video, image_vae, image_config, lpips, tuple(missing or ()))


def on_mesh(tree: Any, mesh: Mesh) -> Any:
    """Networks laid out on the devices; arrays that lie there already are not copied."""
    return jax.tree.map(_on_devices, tree, sharding.shardings(tree, mesh))


def _on_devices(leaf: jax.Array, layout: NamedSharding) -> jax.Array:
    """An array in another layout. Several processes move it to other devices through the host."""
    if leaf.is_fully_addressable or leaf.sharding.device_set == layout.device_set:
        return jax.device_put(leaf, layout)
    whole = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    values = np.asarray(jax.device_put(leaf, whole))
    return jax.make_array_from_callback(values.shape, layout, lambda index: values[index])


def load_image_vae(plan: RunPlan, trained: ImageVAE | None, config: TrainConfig) -> ImageVAE:
    """The frozen image VAE, loaded or else the trained one, on the video VAE's devices."""
    if plan.image_vae is not None:
        return plan.image_vae.load(plan.video.mesh)
    target = abstract_network(ImageVAE, frozen_config(plan.image_config, config))
    frozen = parameter_paths.unflatten(target, parameter_paths.flatten(trained))
    return on_mesh(frozen, plan.video.mesh)


def initial_state(job: Job, frozen: Frozen, start: VAE | None, *, seed: int) -> TrainState:
    """The state before the first step, where `start` holds the weights of `job.start`."""
    keys = RandomKeys.create(seed)
    model = job.create(keys.init, frozen.image_vae, start)
    discriminator = None
    if job.discriminator is not None:
        discriminator = Discriminator(job.discriminator, rngs=nnx.Rngs(keys.discriminator))
    return TrainState.create(
        model,
        discriminator,
        Optimizers.create(job.stage),
        log_scale=job.loss.log_scale,
        trainable=job.stage.trainable,
    )


def _in_the_space_of(image: ImageVAEConfig, video: VideoVAEConfig) -> VideoVAEConfig:
    """The video VAE's config with the latent scale of the image VAE, whose latent space it
    shares."""
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
    folder: Path,
    stage: StageConfig,
    loss: LossConfig,
    create: Callable,
    start: Weights | None,
    *,
    config: TrainConfig,
    known: HeldOutByKind,
    missing: list[str] | None,
    devices: list | None,
) -> Job:
    clips = None
    try:
        batches(  # raises a UserError where the data can't be used
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
    """Raises a UserError where the model can't be trained on the job's batches."""
    for setting in ("dtype", "decoder_dtype", "param_dtype"):
        if getattr(model, setting) == "float16":
            raise UserError(
                f"the {job.title}'s {setting} is float16, which overflows in training; float32 and "
                "bfloat16 don't."
            )
    for bucket in job.stage.buckets:
        _check_bucket(job, bucket, model)
    _check_score(job, model)


def _check_trainable(job: Job, kind: type, model: ImageVAEConfig | VideoVAEConfig) -> None:
    """Raises a UserError where the stage would train nothing."""
    setting = f"{job.setting}.trainable"
    check_chosen(abstract_network(kind, model), job.stage.trainable, setting=setting)


def _check_score(job: Job, model: ImageVAEConfig | VideoVAEConfig) -> None:
    """Raises a UserError where evaluations don't measure the score of `keep_best`."""
    name = job.stage.keep_best
    if name is None:
        return
    metric, _, rival = name.partition("_")
    if rival != "recon" and not isinstance(model, VideoVAEConfig):
        raise UserError(f"keep_best is {name}, but only recon is measured of the {job.title}.")
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
    multiple = devices * _coarsest_row(job, model)
    if devices > 1 and bucket.height % multiple:
        raise UserError(
            f"{name} can't be split over {devices} devices (mesh.space), which need equally many "
            f"rows of every network's coarsest feature map: heights must be multiples of "
            f"{multiple}."
        )


def _coarsest_row(job: Job, model: ImageVAEConfig | VideoVAEConfig) -> int:
    """Rows of the video per row of the coarsest feature map of all networks, a power of 2."""
    coarsest = [model.spatial_compression]
    if job.discriminator is not None:
        coarsest.append(job.discriminator.spatial_compression)
    if job.loss.needs_lpips:
        coarsest.append(SPATIAL_COMPRESSION)
    return max(coarsest)


def video_shape(bucket: Bucket) -> tuple[int, ...]:
    """The shape of a bucket's global batch: (b, t, h, w, 3)."""
    return (bucket.batch, bucket.frames, bucket.height, bucket.width, 3)


def _check_inflation(create: Callable, image: ImageVAEConfig, start: Weights | None) -> None:
    """Raises a UserError where the video VAE can't start from the image VAE or from `start`."""
    start_model = start.abstract if start else None
    jax.eval_shape(create, jax.random.key(0), abstract_network(ImageVAE, image), start_model)

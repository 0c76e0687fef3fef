"""What a run is going to do, checked before anything is trained or written."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from cvvae_jax import sharding
from cvvae_jax.config import ConfigError, ImageVAEConfig, StageConfig, TrainConfig, VideoVAEConfig
from cvvae_jax.data.pipeline import batches, eval_clips
from cvvae_jax.loading import load
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.inflation import inflate
from cvvae_jax.models.video_vae import VideoVAE


@dataclasses.dataclass(frozen=True)
class Job:
    """One stage of a run: what is trained, on what, and where."""

    title: str
    """What messages call it."""
    folder: Path
    """Its run folder."""
    stage: StageConfig
    """Its batches, optimizer and rhythm."""
    create: Callable[[jax.Array, ImageVAE | None], VAE]
    """Makes the untrained model, from a key and the frozen image VAE."""
    mesh: Mesh
    """The devices."""
    clips: np.ndarray
    """Unseen clips to evaluate on: uint8 (n, t, h, w, 3)."""


def plan_jobs(config: TrainConfig) -> tuple[ImageVAE | Job, Job]:
    """The image VAE to be compatible with, or the job that trains it, and the video VAE's job.

    Raises:
        ConfigError: models, batches, devices and data don't fit each other.
    """
    image_vae = _load_image_vae(config.image_vae) if config.image_vae else None
    image_config = config.image_model if image_vae is None else image_vae.config
    video_config = _in_the_space_of(image_config, config.model)

    def create_image(key: jax.Array, _: None) -> ImageVAE:
        return ImageVAE(image_config, rngs=nnx.Rngs(key))

    def create_video(key: jax.Array, frozen: ImageVAE) -> VideoVAE:
        if config.init == "inflate":
            return inflate(frozen, video_config, rngs=nnx.Rngs(key))
        return VideoVAE(video_config, rngs=nnx.Rngs(key))

    key, folder = jax.random.key(0), Path(config.workdir)
    jax.eval_shape(create_video, key, jax.eval_shape(create_image, key, None))  # raises misfits
    video = _job("video VAE", config.train, config, folder, create_video, video_config)
    if image_vae is not None:
        return image_vae, video
    folder = folder / "image_vae"
    image = _job("image VAE", config.image_train, config, folder, create_image, image_config)
    return image, video


def _load_image_vae(path: str) -> ImageVAE:
    image_vae = load(path)
    if not isinstance(image_vae, ImageVAE):
        kind = type(image_vae).__name__
        raise ConfigError(f"--image-vae {path} holds a {kind}; an image VAE is wanted.")
    return image_vae


def _in_the_space_of(image: ImageVAEConfig, video: VideoVAEConfig) -> VideoVAEConfig:
    """The video VAE's config with the latent scale of the image VAE, whose space it shares."""
    for name in ("latent_channels", "spatial_compression"):
        ours, theirs = getattr(video, name), getattr(image, name)
        if ours != theirs:
            raise ConfigError(
                f"the video VAE's {name} is {ours}, the image VAE's {theirs}; "
                "compatible latents need the same."
            )
    return dataclasses.replace(
        video, scaling_factor=image.scaling_factor, shift_factor=image.shift_factor
    )


def _job(
    title: str,
    stage: StageConfig,
    config: TrainConfig,
    folder: Path,
    create: Callable,
    model: ImageVAEConfig | VideoVAEConfig,
) -> Job:
    space, time = model.spatial_compression, model.temporal_compression
    for bucket in stage.buckets:
        if bucket.size % space or (bucket.frames - 1) % time:
            raise ConfigError(
                f"a bucket of {bucket.frames} frames of {bucket.size} x {bucket.size} doesn't fit "
                f"the {title}: 1 + {time}k frames and multiples of {space} pixels do."
            )
    batches(
        stage, config.data, seed=config.seed, start_step=0
    )  # raises what is wrong with the data
    mesh = sharding.make_mesh(config.mesh, batches=tuple(bucket.batch for bucket in stage.buckets))
    return Job(title, folder, stage, create, mesh, eval_clips(stage, config.data))

"""Training of the study's VAEs, by the package's own training runs."""

import dataclasses
import json
from pathlib import Path

import numpy as np

import cvvae_jax
from cvvae_jax.config import (
    Bucket,
    DataConfig,
    ImageVAEConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
    VideoVAEConfig,
)
from cvvae_jax.training.loop import train
from studies.clip_files import write_place
from studies.sprites import photographs
from studies.swap.settings import STARTS, Kind, Place, Settings


def make_clips(settings: Settings, place: Place) -> None:
    """Writes the clips that VAEs are trained on, and those that they are followed on."""
    shape = {"frames": settings.frames, "size": settings.size, "seed": 0}
    train_clips = settings.clips("train").clips(range(settings.sprites))
    photos = photographs(settings.photographs, split="train", **shape)
    write_place(place.clips("train"), np.concatenate([train_clips, photos]))
    # The pool of the diffusion models begins where the VAEs' clips end.
    start = settings.sprites
    held_out = settings.clips("train").clips(range(start, start + settings.held_out))
    write_place(place.clips("held_out"), held_out)


def train_image_vae(settings: Settings, place: Place, name: str) -> None:
    """Trains an image VAE; the step of a video VAE that the run ends with is of no use."""
    config = _config(settings, place, folder=place.image_run(name), seed=100 + ord(name))
    _run(dataclasses.replace(config, loss=settings.loss(None)))


def train_vae(settings: Settings, place: Place, kind: Kind, seed: int) -> None:
    """Trains a video VAE, or goes on where a run of it was ended."""
    _run(vae_config(settings, place, kind, seed))


def vae_config(settings: Settings, place: Place, kind: Kind, seed: int) -> TrainConfig:
    """The training run of a video VAE."""
    config = _config(settings, place, folder=place.vae_run(kind, seed), seed=seed)
    image_vae = place.image_run(settings.images[seed]) / "image_vae"
    return dataclasses.replace(
        config,
        image_vae=str(image_vae),
        init=STARTS[kind],
        loss=settings.loss(kind),
        train=_video_stage(settings, settings.vae_steps),
    )


def _run(config: TrainConfig) -> None:
    """The one place that starts a training run."""
    train(config)


def image_vae(settings: Settings, place: Place, seed: int) -> cvvae_jax.ImageVAE:
    """The trained image VAE of a seed."""
    return cvvae_jax.load(place.image_run(settings.images[seed]) / "image_vae")


def video_vae(settings: Settings, place: Place, kind: Kind, seed: int) -> cvvae_jax.VideoVAE:
    """A trained video VAE, with its averaged weights."""
    return cvvae_jax.load(place.vae_run(*settings.vae_of(kind, seed)))


def followed(folder: Path) -> list[float]:
    """The reconstruction's PSNR on held-out clips, in dB, at every evaluation of a run."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [json.loads(line) for line in lines]
    return [values["eval/psnr_recon"] for values in logged if "eval/psnr_recon" in values]


def _config(settings: Settings, place: Place, *, folder: Path, seed: int) -> TrainConfig:
    shared = {
        "block_channels": settings.block_channels,
        "blocks_per_level": 1,
        "latent_channels": settings.latent_channels,
        "norm_groups": 4,
        "norm_eps": 1.0,  # so narrow a network needs the brightness that a norm would remove
        "mid_attention": False,
    }
    return TrainConfig(
        image_model=ImageVAEConfig(quant_conv=False, **shared),
        model=VideoVAEConfig(
            temporal_strides=(2, 2),
            temporal_padding="edge",
            decoder_attention="spatial",
            **shared,
        ),
        image_train=_stage(
            settings.image_steps,
            (Bucket(frames=1, size=settings.size, batch=2 * settings.vae_batch),),
            OptimizerConfig(learning_rate=2e-3, warmup_steps=min(50, settings.image_steps // 2)),
        ),
        train=_video_stage(settings, 1),
        data=DataConfig(
            videos=str(place.clips("train")),
            eval_videos=str(place.clips("held_out")),
            eval_clips=settings.held_out,
            max_stride=1,
        ),
        seed=seed,
        workdir=str(folder),
    )


def _video_stage(settings: Settings, steps: int) -> StageConfig:
    batch = settings.vae_batch
    buckets = (Bucket(frames=settings.vae_frames, size=settings.size, batch=batch, weight=3.0),)
    if settings.mixed:
        buckets += (Bucket(frames=1, size=settings.size, batch=2 * batch, weight=1.0),)
    # The rate stays where it is, or any run would seem to reach a plateau as its rate falls.
    optimizer = OptimizerConfig(learning_rate=1e-3, schedule="constant", warmup_steps=20)
    return _stage(steps, buckets, optimizer, evaluations=settings.evaluations)


def _stage(
    steps: int, buckets: tuple[Bucket, ...], optimizer: OptimizerConfig, *, evaluations: int = 1
) -> StageConfig:
    return StageConfig(
        steps=steps,
        buckets=buckets,
        optimizer=optimizer,
        ema_decay=0.995,
        checkpoint_every=-(-steps // 6),
        keep_checkpoints=1,
        log_every=max(1, steps // 40),
        eval_every=max(1, steps // evaluations),
    )

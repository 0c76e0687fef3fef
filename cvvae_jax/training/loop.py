"""A whole run: an image VAE, loaded or trained, then a video VAE compatible with it."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cvvae_jax import paths, sharding
from cvvae_jax.checkpoint import Checkpoints
from cvvae_jax.config import ConfigError, StageConfig, TrainConfig, to_json
from cvvae_jax.data.pipeline import batches, eval_clips
from cvvae_jax.loading import load
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.inflation import inflate
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.training.evaluate import evaluate
from cvvae_jax.training.log import StageLog, say
from cvvae_jax.training.optimizer import make_optimizer
from cvvae_jax.training.pictures import before_after, contact_sheet
from cvvae_jax.training.state import TrainState
from cvvae_jax.training.step import train_step


@dataclasses.dataclass(frozen=True)
class Job:
    """One stage of a run: what is trained, beside what, on what, and where."""

    title: str
    """What messages call it."""
    folder: Path
    """Its run folder."""
    stage: StageConfig
    """Its batches, optimizer and rhythm."""
    create: Callable[[jax.Array, ImageVAE | None], VAE]
    """Makes the untrained model, from a key and the frozen image VAE."""
    frozen: ImageVAE | None
    """The image VAE of the compatibility loss, where there is one."""
    mesh: Mesh
    """The devices."""
    clips: np.ndarray
    """Unseen clips to evaluate on: uint8 (n, t, h, w, 3)."""


def train(config: TrainConfig) -> dict[str, float]:
    """Runs a recipe to its end, from the newest checkpoint of its run folder where there is one.

    Returns the scores on unseen clips (see `evaluate`); they, a contact sheet and all else are in
    the run folder.

    Raises:
        ConfigError: the configuration can't be run, or the run folder belongs to another model.
    """
    jax.config.update("jax_default_matmul_precision", config.matmul_precision)
    folder = Path(config.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(to_json(config))
    image_vae = _image_vae(config, folder)
    _check_compatible(config, image_vae)

    def create(key: jax.Array, frozen: ImageVAE) -> VideoVAE:
        if config.init == "inflate":
            return inflate(frozen, config.model, rngs=nnx.Rngs(key))
        return VideoVAE(config.model, rngs=nnx.Rngs(key))

    job = _job(config, config.train, "video VAE", folder, create, image_vae)
    return _report(fit(job, config), job)


def _image_vae(config: TrainConfig, folder: Path) -> ImageVAE:
    """The image VAE to be compatible with: loaded, or trained in a run folder of its own."""
    if config.image_vae is not None:
        image_vae = load(config.image_vae)
        if not isinstance(image_vae, ImageVAE):
            raise ConfigError(
                f"--image-vae {config.image_vae} holds a video VAE; an image VAE is wanted."
            )
        return image_vae

    def create(key: jax.Array, _: None) -> ImageVAE:
        return ImageVAE(config.image_model, rngs=nnx.Rngs(key))

    folder = folder / "image_vae"
    folder.mkdir(exist_ok=True)
    return fit(_job(config, config.image_train, "image VAE", folder, create, None), config)


def _check_compatible(config: TrainConfig, image_vae: ImageVAE) -> None:
    for name in ("latent_channels", "spatial_compression"):
        ours, theirs = getattr(config.model, name), getattr(image_vae.config, name)
        if ours != theirs:
            raise ConfigError(
                f"the video VAE's {name} is {ours}, the image VAE's {theirs}; "
                "compatible latents need the same."
            )


def _job(
    config: TrainConfig,
    stage: StageConfig,
    title: str,
    folder: Path,
    create: Callable,
    frozen: ImageVAE | None,
) -> Job:
    mesh = sharding.make_mesh(config.mesh, batches=tuple(bucket.batch for bucket in stage.buckets))
    clips = eval_clips(stage, config.data, seed=config.seed)
    frozen = jax.device_put(frozen, sharding.shardings(frozen, mesh))
    return Job(title, folder, stage, create, frozen, mesh, clips)


def fit(job: Job, config: TrainConfig) -> VAE:
    """Trains one stage to its end, from its newest checkpoint, and returns the averaged model."""
    checkpoints = Checkpoints(job.folder / "checkpoints", keep=job.stage.keep_checkpoints)
    state, layout = _first_state(job, config, checkpoints)
    start = int(state.step)
    size = paths.count(state.model) / 1e6
    place = f"step {start} of {job.stage.steps}, on {sharding.describe(job.mesh)}"
    say(job.folder, f"{job.title}: {size:.2f} M parameters, {place}")
    log = StageLog(job.folder, title=job.title, steps=job.stage.steps, start_step=start)
    step = _compiled_step(job, config, layout)
    pending = None
    try:
        for n, batch in enumerate(_batches(job, config, start), start + 1):
            state, metrics = step(state, sharding.put_batch(batch, job.mesh), job.frozen)
            _log_step(log, job.stage, pending)
            pending = (n, metrics)
            if n == job.stage.steps or n % job.stage.eval_every == 0:
                _log_evaluation(log, job, n, state)
            if n == job.stage.steps or n % job.stage.checkpoint_every == 0:
                checkpoints.save(
                    n, state=state, weights=state.ema, config=dataclasses.asdict(config)
                )
        _log_step(log, job.stage, pending)
    finally:
        log.close()
        checkpoints.close()
    return state.ema


def _first_state(job: Job, config: TrainConfig, checkpoints: Checkpoints) -> tuple[TrainState, Any]:
    """The state to go on from, new or of the newest checkpoint, and how it lies on the devices."""
    optimizer = make_optimizer(job.stage.optimizer, job.stage.steps)

    def initialize(key: jax.Array, frozen: ImageVAE | None) -> TrainState:
        return TrainState.create(job.create(key, frozen), optimizer)

    key = jax.random.key(config.seed)
    target = jax.eval_shape(initialize, key, job.frozen)
    layout = sharding.shardings(target, job.mesh)
    newest = checkpoints.latest_step()
    if newest is None:
        return jax.jit(initialize, out_shardings=layout)(key, job.frozen), layout
    return checkpoints.restore(newest, target, layout), layout


def _batches(job: Job, config: TrainConfig, start: int):
    """This process's batches of the steps that are left."""
    stream = batches(
        job.stage,
        config.data,
        seed=config.seed,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for _ in range(start, job.stage.steps):
        yield next(stream)


def _compiled_step(job: Job, config: TrainConfig, layout: Any) -> Callable:
    """The step as one compiled program a bucket, its state donated."""
    return jax.jit(
        functools.partial(train_step, stage=job.stage, loss=config.loss, seed=config.seed),
        in_shardings=(
            layout,
            sharding.batch_sharding(job.mesh),
            sharding.shardings(job.frozen, job.mesh),
        ),
        out_shardings=(layout, NamedSharding(job.mesh, PartitionSpec())),
        donate_argnums=0,
    )


def _log_step(log: StageLog, stage: StageConfig, pending: tuple[int, dict] | None) -> None:
    """Logs the step before the one just dispatched, so that fetching its numbers doesn't stop the
    device."""
    if pending is None:
        return
    step, metrics = pending
    if step % stage.log_every == 0 or step == stage.steps:
        values = {name: float(value) for name, value in metrics.items()}
        log.scalars(step, values)
        log.progress(step, values)


def _log_evaluation(log: StageLog, job: Job, step: int, state: TrainState) -> None:
    scores, views = evaluate(state.ema, job.frozen, job.clips, job.mesh)
    log.scalars(step, {f"eval/psnr_{name}": value for name, value in scores.items()})
    log.clip(step, "input above reconstruction", before_after(views))


def _report(model: VideoVAE, job: Job) -> dict[str, float]:
    """The scores of the finished run, as a table, a file and a contact sheet."""
    scores, views = evaluate(model, job.frozen, job.clips, job.mesh)
    samples = job.folder / "samples"
    samples.mkdir(exist_ok=True)
    sheet = contact_sheet(views, temporal_compression=model.temporal_compression)
    sheet.save(samples / "contact_sheet.png")
    (job.folder / "scores.json").write_text(json.dumps(scores, indent=2))
    names = {
        "recon": "reconstruction",
        "compat": "image decoder on the video's latents (compatibility)",
        "image_vae": "image VAE, frame by frame",
        "bicubic": "bicubic, down and up in space",
        "bicubic_time": "bicubic, down and up in space and time (the latent grid)",
    }
    count, frames, height, width, _ = job.clips.shape
    say(job.folder, f"PSNR on {count} unseen clips of {frames} frames of {height} x {width}:")
    for name in (name for name in names if name in scores):
        say(job.folder, f"  {scores[name]:6.2f} dB  {names[name]}")
    say(job.folder, f"contact sheet: {samples / 'contact_sheet.png'}")
    return scores

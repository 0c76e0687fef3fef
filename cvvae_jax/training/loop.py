"""A whole run: an image VAE, loaded or trained, then a video VAE compatible with it."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cvvae_jax import paths, sharding
from cvvae_jax.checkpoint import Checkpoints
from cvvae_jax.config import ConfigError, StageConfig, TrainConfig
from cvvae_jax.data.pipeline import batches
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.training.evaluate import Scores, evaluate
from cvvae_jax.training.jobs import Job, plan_jobs
from cvvae_jax.training.log import StageLog, say, write_config
from cvvae_jax.training.optimizer import make_optimizer
from cvvae_jax.training.pictures import before_after
from cvvae_jax.training.report import report
from cvvae_jax.training.state import TrainState, random_streams
from cvvae_jax.training.step import train_step


def train(config: TrainConfig) -> Scores:
    """Runs a recipe to its end, from the newest checkpoint of its run folder where there is one.

    Returns the scores on unseen clips (see `evaluate`); they, a contact sheet and all else are in
    the run folder.

    Raises:
        ConfigError: the configuration can't be run, or the run folder belongs to another model.
    """
    with jax.default_matmul_precision(config.matmul_precision):
        image, video = plan_jobs(config)
        write_config(Path(config.workdir), config)
        image_vae = fit(image, None, config) if isinstance(image, Job) else image
        image_vae = jax.device_put(image_vae, sharding.shardings(image_vae, video.mesh))
        model = fit(video, image_vae, config)
        return report(model, image_vae, video, config)


def fit(job: Job, frozen: ImageVAE | None, config: TrainConfig) -> VAE:
    """Trains one stage to its end, from its newest checkpoint, and returns the averaged model.

    `frozen` is the image VAE of the compatibility loss, on the job's devices.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(job.folder / "checkpoints", keep=job.stage.keep_checkpoints)
    state, layout = _first_state(job, frozen, config, checkpoints)
    start = int(state.step)
    _announce(job, state, start)
    log = StageLog(job.folder, title=job.title, steps=job.stage.steps, start_step=start)
    step = _compiled_step(job, frozen, config, layout)
    pending = None
    try:
        for n, batch in enumerate(_batches(job, config, start), start + 1):
            state, metrics = step(state, sharding.put_batch(batch, job.mesh), frozen)
            _log_step(log, job.stage, pending)
            pending = (n, metrics)
            last = n == job.stage.steps
            if last or n % job.stage.eval_every == 0:
                _log_evaluation(log, job, n, state, frozen)
            if last or n % job.stage.checkpoint_every == 0:
                _log_step(log, job.stage, pending)  # a run may go on from here, without this line
                pending = None
                settings = dataclasses.asdict(config)
                checkpoints.save(n, state=state, weights=state.ema, config=settings)
    finally:
        log.close()
        checkpoints.close()
    return state.ema


def _announce(job: Job, state: TrainState, start: int) -> None:
    if start > job.stage.steps:
        raise ConfigError(
            f"{job.folder} has done {start} steps, more than the {job.stage.steps} asked for."
        )
    if start == job.stage.steps:
        say(job.folder, f"{job.title}: all {start} steps are done already")
        return
    size = paths.count(state.model) / 1e6
    place = f"step {start} of {job.stage.steps}, on {sharding.describe(job.mesh)}"
    say(job.folder, f"{job.title}: {size:.2f} M parameters, {place}; compiling the step first")


def _first_state(
    job: Job, frozen: ImageVAE | None, config: TrainConfig, checkpoints: Checkpoints
) -> tuple[TrainState, Any]:
    """The state to go on from, new or of the newest checkpoint, and how it lies on the devices."""
    optimizer = make_optimizer(job.stage.optimizer, job.stage.steps)

    def initialize(key: jax.Array, frozen: ImageVAE | None) -> TrainState:
        return TrainState.create(job.create(key, frozen), optimizer)

    key, *_ = random_streams(config.seed)
    target = jax.eval_shape(initialize, key, frozen)
    layout = sharding.shardings(target, job.mesh)
    newest = checkpoints.latest_step()
    if newest is None:
        return jax.jit(initialize, out_shardings=layout)(key, frozen), layout
    return checkpoints.restore(newest, target, layout), layout


def _batches(job: Job, config: TrainConfig, start: int) -> Iterator[dict[str, np.ndarray]]:
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


def _compiled_step(job: Job, frozen: ImageVAE | None, config: TrainConfig, layout: Any) -> Callable:
    """The step as one compiled program a bucket, its state donated."""
    return jax.jit(
        functools.partial(train_step, stage=job.stage, loss=config.loss, seed=config.seed),
        in_shardings=(
            layout,
            sharding.batch_sharding(job.mesh),
            sharding.shardings(frozen, job.mesh),
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


def _log_evaluation(
    log: StageLog, job: Job, step: int, state: TrainState, frozen: ImageVAE | None
) -> None:
    scores, views = evaluate(state.ema, frozen, job.clips, job.mesh)
    log.scalars(step, {f"eval/psnr_{name}": value for name, value in scores.items()})
    log.clip(step, "input above reconstruction", before_after(views))

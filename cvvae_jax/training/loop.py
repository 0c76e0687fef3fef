"""A whole run: the image VAE is loaded or trained, then the video VAE is trained against it, unless
the run ends with the image VAE."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cvvae_jax import parameter_paths, sharding
from cvvae_jax.checkpoint import Checkpoints, check_fits, newest_config
from cvvae_jax.compiling import announced
from cvvae_jax.config import TrainConfig
from cvvae_jax.data.pipeline import Batches, batches
from cvvae_jax.errors import UserError
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.processes.broadcast import broadcast_from_first
from cvvae_jax.processes.stop import Stopped, StopSignals
from cvvae_jax.training.evaluate import Scores, finished_scores, report
from cvvae_jax.training.jobs import Job, RunPlan, initial_state, load_image_vae, on_mesh, plan_run
from cvvae_jax.training.log import process_log, say, warnings_kept
from cvvae_jax.training.programs import AbstractStage, TrainPrograms, abstract_stages
from cvvae_jax.training.progress import Diverged, Progress, after_rollback
from cvvae_jax.training.run_folder import run_folder
from cvvae_jax.training.state import Frozen, Term, TrainState
from cvvae_jax.training.trackers import Callback
from cvvae_jax.training.trainable import check_frozen, check_same_choice, partition


@dataclasses.dataclass(frozen=True)
class Additions:
    """What a caller in Python adds to a run."""

    terms: Mapping[str, Term] = dataclasses.field(default_factory=dict)
    callbacks: Sequence[Callback] = ()

    @classmethod
    def checked(cls, terms: Any, callbacks: Any) -> "Additions":
        """What a caller gave, which may be of any type.

        Raises:
            UserError: it is no dict of terms, or no list of functions.
        """
        if not isinstance(terms, Mapping):
            raise UserError(f"terms must be a dict of names and terms, not {type(terms).__name__}.")
        for name, term in terms.items():
            if not isinstance(term, Term):
                raise UserError(
                    f"terms[{name!r}] must be Term(function, weight=..), not {type(term).__name__}."
                )
        if not isinstance(callbacks, list | tuple):
            raise UserError(
                f"callbacks must be a list of functions, not {type(callbacks).__name__}."
            )
        return cls(terms, callbacks)


def train(
    config: TrainConfig,
    stop: StopSignals | None = None,
    *,
    terms: Mapping[str, Term] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Scores:
    """Trains by a recipe to its end, from the newest checkpoint of its run folder if there is one.

    Args:
        config: the recipe.
        stop: where signals are noted already; by default they are noted from now on.
        terms: terms that are added to the objective of every stage, by the name of their metric.
            They are no settings, so that a run that is resumed must be given them again.
        callbacks: what is told of metrics and animations while the run trains.

    Returns:
        The scores on unseen clips (see `evaluate`), which the run folder also holds.

    Raises:
        UserError: the configuration can't be run, `terms` or `callbacks` are of another type, the
            run folder belongs to another model, another run is at work in it, or training diverged
            twice.
        OSError: the last checkpoint can't be written, or an earlier one can't be read.
        Stopped: SIGINT or SIGTERM asked for the end. A checkpoint of the last step exists, unless
            updates were being skipped then, or the signal came before the first step.
    """
    additions = Additions.checked(terms or {}, callbacks)
    with jax.default_matmul_precision(config.matmul_precision), contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(StopSignals())
        plan = plan_run(config)
        check = functools.partial(_check_checkpoints, plan, config)
        with run_folder(config, check), process_log(Path(config.workdir)):
            return _run_plan(plan, config, stop, additions)


def _check_checkpoints(plan: RunPlan, config: TrainConfig) -> None:
    """Raises a UserError where a stage can't go on from the checkpoints in its folder."""
    jobs = [job for job in (plan.image, plan.video) if job is not None]
    if not any((job.folder / "checkpoints").is_dir() for job in jobs):
        return
    for stage in abstract_stages(plan, config):
        folder, steps = stage.job.folder, stage.job.stage.steps
        _check_trainable(stage)
        start = check_fits(folder / "checkpoints", stage.state)
        if start is not None and start > steps:
            raise UserError(f"{folder} has done {start} steps, more than the {steps} asked for.")


def _check_trainable(stage: AbstractStage) -> None:
    """Raises a UserError where the checkpoints in a stage's folder trained other parameters."""
    job = stage.job
    before = newest_config(job.folder / "checkpoints")
    if before is not None:
        check_same_choice(
            stage.state.model,
            job.stage.trainable,
            before.get(job.setting, {}).get("trainable", "all"),
            setting=f"{job.setting}.trainable",
            folder=job.folder,
        )


def _run_plan(
    plan: RunPlan, config: TrainConfig, stop: StopSignals, additions: Additions
) -> Scores:
    if scores := broadcast_from_first(lambda: finished_scores(plan.last)):
        done = f"all {plan.last.stage.steps} steps are done already; scores.json has the scores"
        say(plan.last.folder, f"{plan.last.title}: {done}")
        return scores
    lpips = plan.lpips.load(plan.last.mesh) if plan.lpips else None
    image_vae = None
    if plan.image is not None:
        needed = on_mesh(Frozen(lpips=lpips, terms=additions.terms), plan.image.mesh)
        image_vae = fit(plan.image, needed, config, stop, additions.callbacks)
    if plan.video is None:
        return report(image_vae, None, plan.image, config)
    terms = on_mesh(additions.terms, plan.video.mesh)
    frozen = Frozen(load_image_vae(plan, image_vae, config), lpips, terms)
    model = fit(plan.video, frozen, config, stop, additions.callbacks)
    return report(model, frozen.image_vae, plan.video, config)


@dataclasses.dataclass(frozen=True)
class _Run:
    """The fixed parts of a job's training."""

    job: Job
    frozen: Frozen
    config: TrainConfig
    checkpoints: Checkpoints
    callbacks: Sequence[Callback]


def fit(
    job: Job,
    frozen: Frozen,
    config: TrainConfig,
    stop: StopSignals,
    callbacks: Sequence[Callback] = (),
) -> VAE:
    """Trains one stage to its end, from its newest checkpoint, and returns the averaged model.

    `frozen` lies on the job's devices. If too many updates in a row are skipped, training goes back
    to the newest checkpoint once, and on with other batches.

    Raises:
        UserError: training can't go on from the folder's checkpoints, or diverged twice.
        OSError: the last checkpoint can't be written, or an earlier one can't be read.
        Stopped: a signal asked for the end.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(
        job.folder / "checkpoints",
        keep=job.stage.keep_checkpoints,
        keep_every=job.stage.keep_every,
        keep_best=job.stage.keep_best,
    )
    run = _Run(job, frozen, config, checkpoints, callbacks)
    with warnings_kept(job.folder), contextlib.closing(checkpoints):
        state = _first_state(run)
        _announce(job, state, frozen)
        programs = TrainPrograms(job, config, state, frozen)
        while True:
            try:
                return _train(run, programs, state, stop)
            except Diverged as error:
                # The traceback would keep the diverged state in memory while another one is read.
                divergence = error.with_traceback(None)
            state = None
            state = after_rollback(_first_state(run), divergence, job)


def _train(run: _Run, programs: TrainPrograms, state: TrainState, stop: StopSignals) -> VAE:
    """Trains from a state to the end, and returns the averaged model.

    Raises:
        Diverged: too many updates in a row were skipped.
        Stopped: a signal asked for the end.
    """
    job, stage, start = run.job, run.job.stage, int(state.step)
    progress = Progress(job, run.config, run.frozen.image_vae, start, run.callbacks)
    # The effect of a rollback must outlive a kill: it is saved once both networks had an update.
    resumed = start + 2 if int(state.guard.rollbacks) else None
    alone = jax.process_count() == 1  # no other process must learn of a stop first
    try:
        offset = int(state.guard.data_offset)
        with contextlib.closing(_batches(run, start + offset)) as stream:
            timed = progress.timed(stream)
            for n, batch in zip(range(start + 1, stage.steps + 1), timed, strict=False):
                if alone and stop.requested and n == start + 1:
                    raise Stopped(stop.requested, start, kept=run.checkpoints.latest_step() or 0)
                state = _step(run, programs, progress, n, state, batch, stop)
                stopped = progress.stop or (stop.requested if alone else None)
                last = n == stage.steps
                if last or n % stage.eval_every == 0:
                    with stop.after("the evaluation is done"):
                        progress.evaluation(n, state.averaged)
                if last or stopped or n == resumed or n % stage.checkpoint_every == 0:
                    progress.flush()  # a run that goes on from here won't log this step again
                    with progress.throughput.pause():
                        _save(run, n, state, progress.scores(n), last=last, wait=bool(stopped))
                if stopped:
                    raise Stopped(stopped, n, kept=run.checkpoints.latest_step() or 0)
    finally:
        progress.close()
    return state.averaged


def _step(
    run: _Run,
    programs: TrainPrograms,
    progress: Progress,
    n: int,
    state: TrainState,
    batch: dict[str, np.ndarray],
    stop: StopSignals,
) -> TrainState:
    """Dispatches step `n`, counted from 1, and returns the state after it."""
    marked = batch | {"stop": np.full(len(batch["seed"]), stop.number, np.uint8)}
    placed = sharding.put_batch(marked, run.job.mesh)
    with stop.after("the program is compiled and its step done"):
        program = progress.program(programs, n - 1, placed["video"].shape)
    with jax.profiler.StepTraceAnnotation("train", step_num=n):
        state, metrics = program.compiled(state, placed, run.frozen)
    progress.step(n, metrics)
    return state


def _save(
    run: _Run, step: int, state: TrainState, scores: Scores, *, last: bool, wait: bool
) -> None:
    """Saves a checkpoint, except while updates are being skipped, which the state may cause. The
    last step is always saved.

    Raises:
        UserError: a frozen parameter has changed since the first step.
        OSError: the checkpoint can't be written, and it is the last one or `wait` is set.
    """
    if last or int(state.guard.in_a_row) == 0:
        check_frozen(state.model, run.job.stage.trainable, state.frozen_checksums)
        settings = dataclasses.asdict(run.config)
        run.checkpoints.save(
            step, state=state, weights=state.averaged, config=settings, scores=scores
        )
    if last or wait:
        run.checkpoints.finish()
    best = run.checkpoints.best() if last else None
    if best is not None:
        folder, name = run.job.folder / "checkpoints" / str(best[0]), run.job.stage.keep_best
        say(run.job.folder, f"best checkpoint by {name} ({best[1]:.4f}): {folder}")


def _announce(job: Job, state: TrainState, frozen: Frozen) -> None:
    start, steps = int(state.step), job.stage.steps
    if start == steps:
        say(job.folder, f"{job.title}: all {start} steps are done already")
        return
    size = f"{parameter_paths.count(state.model) / 1e6:.2f} M parameters"
    if state.discriminator is not None:
        judge = parameter_paths.count(state.discriminator)
        size += f", against {judge / 1e6:.2f} M of the discriminator"
    trained = parameter_paths.count(partition(state.model, job.stage.trainable)[0])
    if trained < parameter_paths.count(state.model):
        size += f", of which {trained / 1e6:.3g} M are trained ({job.stage.trainable})"
    where = sharding.describe(job.mesh)
    say(job.folder, f"{job.title}: {size}; step {start} of {steps}, on {where}")
    added = [f"{term.weight:g} x {name}" for name, term in frozen.terms.items()]
    if added:
        say(job.folder, f"{job.title}: terms added to the objective: {', '.join(added)}")


def _first_state(run: _Run) -> TrainState:
    """The state to start from, of the newest checkpoint or new, on the devices."""
    job = run.job
    initialize = functools.partial(initial_state, job, seed=run.config.seed)
    start = job.start.abstract if job.start else None
    target = jax.eval_shape(initialize, run.frozen, start)
    layout = sharding.shardings(target, job.mesh)
    newest = run.checkpoints.latest_intact_step()
    if newest is not None:
        return run.checkpoints.restore(newest, target, layout)
    start = job.start.load(job.mesh) if job.start else None
    tell = functools.partial(say, job.folder)
    with announced(
        f"the first state of the {job.title}", target.model.config, job.discriminator, say=tell
    ):
        return jax.jit(initialize, out_shardings=layout)(run.frozen, start)


def _batches(run: _Run, start: int) -> Batches:
    """This process's part of the batches, from number `start` on."""
    return batches(
        run.job.stage,
        run.config.data,
        seed=run.config.seed,
        start_step=start,
        pairs=run.job.in_pairs,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        known=run.job.known,
    )

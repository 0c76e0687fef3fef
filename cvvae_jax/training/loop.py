"""A whole run: an image VAE, loaded or trained, then a video VAE compatible with it."""

import contextlib
import dataclasses
import functools
from pathlib import Path

import jax

from cvvae_jax import parameter_paths, sharding
from cvvae_jax.checkpoint import Checkpoints
from cvvae_jax.config import TrainConfig
from cvvae_jax.data.pipeline import Batches, batches
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.processes.broadcast import found_by_first
from cvvae_jax.processes.stop import Stopped, StopSignals
from cvvae_jax.training.evaluate import Scores, finished_scores, report
from cvvae_jax.training.jobs import Job, Plan, initial_state, load_image_vae, on_mesh, plan_run
from cvvae_jax.training.log import process_log, say, warnings_kept
from cvvae_jax.training.programs import Programs
from cvvae_jax.training.progress import Diverged, Progress, after_rollback
from cvvae_jax.training.run_folder import run_folder
from cvvae_jax.training.state import Frozen, TrainState


def train(config: TrainConfig, stop: StopSignals | None = None) -> Scores:
    """Runs a recipe to its end, from the newest checkpoint of its run folder where there is one.

    Args:
        config: the recipe.
        stop: what asks for an end, if it is listened to already.

    Returns:
        The scores on unseen clips (see `evaluate`); they, a contact sheet and all else are in the
        run folder.

    Raises:
        UserError: the configuration can't be run, the run folder belongs to another model,
            another run is at work in it, or training diverged twice.
        OSError: the last checkpoint could not be written, or an earlier one not be read.
        Stopped: SIGINT or SIGTERM asked for the end; there is a checkpoint of the last step.
    """
    with jax.default_matmul_precision(config.matmul_precision), contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(StopSignals())
        plan = plan_run(config)
        with run_folder(plan, config), process_log(Path(config.workdir)):
            return _run_plan(plan, config, stop)


def _run_plan(plan: Plan, config: TrainConfig, stop: StopSignals) -> Scores:
    if scores := found_by_first(lambda: finished_scores(plan.video)):
        done = f"all {plan.video.stage.steps} steps are done already; scores.json has what came out"
        say(plan.video.folder, f"{plan.video.title}: {done}")
        return scores
    lpips = plan.lpips.load(plan.video.mesh) if plan.lpips else None
    image_vae = None
    if plan.image is not None:
        image_vae = fit(plan.image, on_mesh(Frozen(lpips=lpips), plan.image.mesh), config, stop)
    frozen = Frozen(load_image_vae(plan, image_vae, config), lpips)
    model = fit(plan.video, frozen, config, stop)
    return report(model, frozen.image_vae, plan.video, config)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same from the first step of a job to its last."""

    job: Job
    frozen: Frozen
    config: TrainConfig
    checkpoints: Checkpoints


def fit(job: Job, frozen: Frozen, config: TrainConfig, stop: StopSignals) -> VAE:
    """Trains one stage to its end, from its newest checkpoint, and returns the averaged model.

    `frozen` lies on the job's devices. Where too many updates in a row had to be skipped, the run
    goes back to the newest checkpoint once, and on with other data.

    Raises:
        UserError: it can't go on from what is in its folder, or had to go back twice.
        Stopped: a signal asked for the end.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(
        job.folder / "checkpoints",
        keep=job.stage.keep_checkpoints,
        keep_every=job.stage.keep_every,
        keep_best=job.stage.keep_best,
    )
    run = _Run(job, frozen, config, checkpoints)
    with warnings_kept(job.folder), contextlib.closing(checkpoints):
        state = _first_state(run)
        _announce(job, state)
        programs = Programs(job, config, state, frozen)
        while True:
            try:
                return _train(run, programs, state, stop)
            except Diverged as error:
                # Its traceback would hold the state that diverged while another one is read.
                divergence = error.with_traceback(None)
            state = None
            state = after_rollback(_first_state(run), divergence, job)


def _train(run: _Run, programs: Programs, state: TrainState, stop: StopSignals) -> VAE:
    """Trains from a state to the end.

    Raises:
        Diverged: too many updates in a row were skipped.
        Stopped: a signal asked for the end.
    """
    job, stage, start = run.job, run.job.stage, int(state.step)
    progress = Progress(job, run.config, run.frozen.image_vae, start)
    # What a rollback changed must outlive a kill: saved as soon as both networks have gone on.
    resumed = start + 2 if int(state.guard.rollbacks) else None
    try:
        offset = int(state.guard.data_offset)
        with contextlib.closing(_batches(run, start + offset)) as stream:
            timed = progress.timed(stream)
            for n, batch in zip(range(start + 1, stage.steps + 1), timed, strict=False):
                if stop.requested and n == start + 1 and jax.process_count() == 1:
                    raise Stopped(stop.requested, start, kept=run.checkpoints.latest_step() or 0)
                marked = batch | {"stop": stop.marks(len(batch["seed"]))}
                placed = sharding.put_batch(marked, job.mesh)
                with stop.after("the program is compiled and its step done"):
                    program = progress.program(programs, n - 1, placed["video"].shape)
                with jax.profiler.StepTraceAnnotation("train", step_num=n):
                    state, metrics = program.compiled(state, placed, run.frozen)
                progress.step(n, metrics)
                stopped = progress.stop
                if jax.process_count() == 1:  # nobody else has to hear of it first
                    stopped = stopped or stop.requested
                last = n == stage.steps
                if last or n % stage.eval_every == 0:
                    with stop.after("the evaluation is done"):
                        progress.evaluation(n, state.ema)
                if last or stopped or n == resumed or n % stage.checkpoint_every == 0:
                    progress.flush()  # a run may go on from here, without this step's line
                    with progress.throughput.pause():
                        _save(run, n, state, progress.scores(n), last=last, wait=bool(stopped))
                if stopped:
                    raise Stopped(stopped, n, kept=run.checkpoints.latest_step() or 0)
    finally:
        progress.close()
    return state.ema


def _save(
    run: _Run, step: int, state: TrainState, scores: Scores, *, last: bool, wait: bool
) -> None:
    """A checkpoint, unless updates are being skipped: what it would hold may be the cause.

    Raises:
        OSError: it is the last one, or to be waited for, and could not be written.
    """
    if last or int(state.guard.in_a_row) == 0:
        settings = dataclasses.asdict(run.config)
        run.checkpoints.save(step, state=state, weights=state.ema, config=settings, scores=scores)
    if last or wait:
        run.checkpoints.finish()
    best = run.checkpoints.best() if last else None
    if best is not None:
        folder, name = run.job.folder / "checkpoints" / str(best[0]), run.job.stage.keep_best
        say(run.job.folder, f"best checkpoint by {name} ({best[1]:.4f}): {folder}")


def _announce(job: Job, state: TrainState) -> None:
    start, steps = int(state.step), job.stage.steps
    if start == steps:
        say(job.folder, f"{job.title}: all {start} steps are done already")
        return
    size = f"{parameter_paths.count(state.model) / 1e6:.2f} M parameters"
    if state.discriminator is not None:
        judge = parameter_paths.count(state.discriminator)
        size += f", against {judge / 1e6:.2f} M of the discriminator"
    where = sharding.describe(job.mesh)
    say(job.folder, f"{job.title}: {size}; step {start} of {steps}, on {where}")


def _first_state(run: _Run) -> TrainState:
    """The state to go on from, new or of the newest checkpoint, on the devices."""
    job = run.job
    initialize = functools.partial(initial_state, job, seed=run.config.seed)
    start = job.start.abstract if job.start else None
    target = jax.eval_shape(initialize, run.frozen, start)
    layout = sharding.shardings(target, job.mesh)
    newest = run.checkpoints.latest_intact_step()
    if newest is not None:
        return run.checkpoints.restore(newest, target, layout)
    start = job.start.load(job.mesh) if job.start else None
    return jax.jit(initialize, out_shardings=layout)(run.frozen, start)


def _batches(run: _Run, start: int) -> Batches:
    """This process's part of the stream of batches, from `start` on."""
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

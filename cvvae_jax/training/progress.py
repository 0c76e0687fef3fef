"""The reports of a stage while it trains, and the guard that sends it back when it diverges.

A step skips an update that is not finite (see `training.step`). Too many skips in a row mean that
the parameters themselves have gone bad: the run goes back to its last checkpoint, and leaves out
the batches that it has seen. It does so once.
"""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from cvvae_jax.config import TrainConfig
from cvvae_jax.data.pipeline import Batches
from cvvae_jax.errors import UserError
from cvvae_jax.hardware import peak_flops
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.training.evaluate import Scores, evaluate
from cvvae_jax.training.jobs import Job
from cvvae_jax.training.log import StageLog, say
from cvvae_jax.training.pictures import rows_shown, side_by_side
from cvvae_jax.training.profile import Profile
from cvvae_jax.training.programs import TrainProgram, TrainPrograms, describe_program
from cvvae_jax.training.state import Guard, StepMetrics, TrainState
from cvvae_jax.training.trackers import Callback

Item = TypeVar("Item")


class Throughput:
    """Measures frames and operations per second, and the time spent waiting for data."""

    def __init__(self, mesh: Mesh):
        self._devices, self._peak = mesh.size, peak_flops(mesh.devices.flat[0].device_kind)
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._frames = self._steps = self._flops = 0
        self._paused = self._waited = 0.0

    def timed(self, stream: Iterator[Item]) -> Iterator[Item]:
        """The items of a stream; the time until each comes counts as waiting for data."""
        while True:
            start = time.perf_counter()
            try:
                item = next(stream)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield item

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """A context whose time does not count as training: compiling, evaluating, saving."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def count(self, program: TrainProgram) -> None:
        """Counts a step that is done."""
        self._steps += 1
        self._frames += program.frames
        self._flops += program.flops

    def metrics(self) -> dict[str, float]:
        """Since the last call: frames per second and device, seconds that a step waited for data,
        and the model's operations as a fraction of the device's peak, where that is known."""
        seconds = max(time.perf_counter() - self._since - self._paused, 1e-9)
        metrics = {
            "throughput/frames_per_second_per_device": self._frames / seconds / self._devices,
            "throughput/data_wait_seconds": self._waited / max(self._steps, 1),
        }
        if self._peak:
            rate = self._flops / seconds / self._devices
            metrics["throughput/model_flop_utilization"] = rate / self._peak
        self._reset()
        return metrics


class Diverged(Exception):
    """Too many updates in a row were skipped."""

    def __init__(self, step: int, guard: dict[str, int]):
        """Takes the last step, and the state's `guard` after it."""
        super().__init__(step, guard)
        self.step, self.guard = step, guard


def check_guard(step: int, guard: dict[str, int], job: Job) -> None:
    """Raises Diverged if too many updates in a row were skipped, by the state's `guard` after a
    step."""
    if max(guard["vae_in_a_row"], guard["gan_in_a_row"]) >= job.stage.max_skipped:
        raise Diverged(step, guard)


def after_rollback(state: TrainState, divergence: Diverged, job: Job) -> TrainState:
    """An earlier state, changed so that it goes on with batches that the run has not seen.

    Raises:
        UserError: the run has gone back before.
    """
    guard, count = divergence.guard, job.stage.max_skipped
    advice = "lower the learning rate, start the GAN later, or compute in float32"
    if guard["rollbacks"]:
        raise UserError(
            f"the {job.title} diverged again at step {divergence.step}: {count} updates in a row "
            f"had a loss or gradient that is not finite, though the run had gone back and on with "
            f"other data before. Its checkpoints are kept in {job.folder}; {advice}."
        )
    step = int(state.step)
    offset = divergence.step + guard["data_offset"] - step
    offset += offset % 2  # pairs of steps that share a bucket stay pairs
    say(
        job.folder,
        f"{job.title}: {count} updates in a row were skipped up to step {divergence.step}, since a "
        f"loss or gradient was not finite; going back to step {step} and on with other batches "
        f"({offset} are left out). If it happens again: {advice}.",
    )
    after = {
        "skipped": guard["skipped"],
        "vae_in_a_row": 0,
        "gan_in_a_row": 0,
        "rollbacks": 1,
        "data_offset": offset,
    }
    fresh = {
        name: jax.device_put(value, getattr(state.guard, name).sharding).astype("int32")
        for name, value in after.items()
    }
    return dataclasses.replace(state, guard=dataclasses.replace(state.guard, **fresh))


class Progress:
    """Everything that is reported of a job, from the first step, or from where it goes on, to the
    last."""

    def __init__(
        self,
        job: Job,
        config: TrainConfig,
        image_vae: ImageVAE | None,
        start: int,
        callbacks: Sequence[Callback] = (),
    ):
        self.throughput = Throughput(job.mesh)
        self._job, self._image_vae = job, image_vae
        self._log = StageLog(
            job.folder,
            title=job.title,
            steps=job.stage.steps,
            start_step=start,
            wandb=config.wandb,
            settings=dataclasses.asdict(config),
            callbacks=callbacks,
        )
        self._profile = Profile(job.folder, config.profile, pause=self.throughput.pause)
        self._stream: Batches | None = None
        self._program: TrainProgram | None = None
        self._pending: tuple[int, StepMetrics, TrainProgram] | None = None
        self._latest: StepMetrics = {}
        self._scores: tuple[int, Scores] | None = None
        self.stop: str | None = None
        """Name of the signal that asked for an end, in all processes after the same step."""

    def timed(self, stream: Batches) -> Iterator[dict[str, np.ndarray]]:
        """The batches of a stream, whose waiting times and bad records are logged."""
        self._stream = stream
        return self.throughput.timed(stream)

    def _say(self, text: str) -> None:
        say(self._job.folder, f"{self._job.title}: {text}")

    def program(
        self, programs: TrainPrograms, step: int, video_shape: tuple[int, ...]
    ) -> TrainProgram:
        """The program of a step, counted from 0; reports a program that has to be compiled, before
        and after."""
        with self.throughput.pause():
            program, is_new = programs.of(step, video_shape, self._say)
        if is_new:
            what = describe_program(program.update, video_shape)
            self._say(f"compiled {what} in {program.seconds:.0f} s")
        self._program = program
        self._profile.before_step(is_new=is_new, wait=self.flush)
        return program

    def step(self, step: int, metrics: StepMetrics) -> None:
        """Takes the metrics of a step that was just dispatched, and logs those of the step before,
        so that the device never waits for the host.

        Raises:
            Diverged: too many updates in a row were skipped.
        """
        self.flush()
        self._pending = (step, metrics, self._program)
        self._profile.after_step(wait=self.flush)

    def flush(self) -> None:
        """Waits for the last step, logs its metrics, and notes whether an end was asked for.

        Raises:
            Diverged: too many updates in a row were skipped.
        """
        if self._pending is None:
            return
        (step, metrics, program), self._pending = self._pending, None
        names = [field.name for field in dataclasses.fields(Guard)]
        guard = {name: int(metrics.pop(f"guard/{name}")) for name in names}  # waits for the step
        number = int(metrics.pop("stop"))
        self.stop = signal.Signals(number).name if number else None
        self.throughput.count(program)
        # Where networks are trained in turns, each step has the metrics of one of them.
        self._latest |= metrics
        if step % self._job.stage.log_every == 0 or step == self._job.stage.steps:
            values = {name: float(value) for name, value in jax.device_get(self._latest).items()}
            values |= {f"guard/{name}": value for name, value in guard.items()}
            values |= self.throughput.metrics() | self._stream.metrics()
            self._log.scalars(step, values)
            self._log.progress(step, values)
            self._latest = {}
        check_guard(step, guard, self._job)

    def evaluation(self, step: int, model: VAE) -> None:
        """Measures the averaged model on unseen clips."""
        job = self._job
        self.flush()  # its time must not count as evaluation
        with self.throughput.pause():
            scores, views = evaluate(model, self._image_vae, job.clips, job.mesh, self._say)
            self._scores = (step, scores)
            self._log.scalars(step, {f"eval/{name}": value for name, value in scores.items()})
            self._log.clip(step, rows_shown(views), side_by_side(views))

    def scores(self, step: int) -> Scores:
        """The scores of the evaluation at a step; empty where there was none."""
        return self._scores[1] if self._scores and self._scores[0] == step else {}

    def close(self) -> None:
        """Ends a trace that runs, and closes the logs."""
        self._profile.stop()
        self._log.close()

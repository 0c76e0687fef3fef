"""What is told of a job while it runs: steps, evaluations, speed; and the guard's watch."""

import dataclasses
import signal
from collections.abc import Iterator

import jax
import numpy as np

from cvvae_jax.config import TrainConfig
from cvvae_jax.data.pipeline import Batches
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.training.evaluate import Scores, evaluate
from cvvae_jax.training.guard import check_guard
from cvvae_jax.training.jobs import Job
from cvvae_jax.training.log import StageLog, say
from cvvae_jax.training.objective import Metrics
from cvvae_jax.training.pictures import side_by_side
from cvvae_jax.training.profile import Profile
from cvvae_jax.training.programs import Program, Programs
from cvvae_jax.training.state import Guard
from cvvae_jax.training.throughput import Throughput


class Progress:
    """From the first step of a job, or of its continuation, to the last."""

    def __init__(self, job: Job, config: TrainConfig, image_vae: ImageVAE | None, start: int):
        self.throughput = Throughput(job.mesh)
        self._job, self._image_vae = job, image_vae
        self._log = StageLog(
            job.folder,
            title=job.title,
            steps=job.stage.steps,
            start_step=start,
            wandb=config.wandb,
            settings=dataclasses.asdict(config),
        )
        self._profile = Profile(job.folder, config.profile, pause=self.throughput.pause)
        self._stream: Batches | None = None
        self._program: Program | None = None
        self._pending: tuple[int, Metrics, Program] | None = None
        self._latest: Metrics = {}
        self._scores: tuple[int, Scores] | None = None
        self.stop: str | None = None
        """Name of the signal that asks for an end, the same in all processes."""

    def timed(self, stream: Batches) -> Iterator[dict[str, np.ndarray]]:
        """The batches of a stream; how long they took and how many records were bad is logged."""
        self._stream = stream
        return self.throughput.timed(stream)

    def program(self, programs: Programs, step: int, video_shape: tuple[int, ...]) -> Program:
        """The program of a step, counted from 0; says so where it has to be compiled first."""
        with self.throughput.pause():
            program, is_new = programs.of(step, video_shape)
        if is_new:
            batch, frames, height, width, _ = video_shape
            say(
                self._job.folder,
                f"{self._job.title}: compiled the {program.update} step for {batch} x {frames} "
                f"frames of {height} x {width} in {program.seconds:.0f} s",
            )
        self._program = program
        self._profile.before_step(is_new=is_new, wait=self.flush)
        return program

    def step(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of a step just dispatched, and logs those of the step before, so that
        fetching numbers doesn't stop the device.

        Raises:
            Diverged: too many updates in a row were skipped.
        """
        self.flush()
        self._pending = (step, metrics, self._program)
        self._profile.after_step(wait=self.flush)

    def flush(self) -> None:
        """Logs what has not been logged yet, and learns whether an end was asked for.

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
        # Networks that are trained in turns have a step of their own each.
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
        self.flush()  # the step before it isn't part of it
        with self.throughput.pause():
            scores, views = evaluate(model, self._image_vae, job.clips, job.mesh)
            self._scores = (step, scores)
            self._log.scalars(step, {f"eval/{name}": value for name, value in scores.items()})
            self._log.clip(step, "input, reconstruction, image decoder", side_by_side(views))

    def scores(self, step: int) -> Scores:
        """Of the evaluation at a step; none where there was none."""
        return self._scores[1] if self._scores and self._scores[0] == step else {}

    def close(self) -> None:
        """Writes out what is still in memory."""
        self._profile.stop()
        self._log.close()

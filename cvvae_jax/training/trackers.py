"""Metrics and animations for TensorBoard, Weights & Biases, and callbacks.

tensorboardX's SummaryWriter writes from a thread with a queue of ten events. A full disk ends that
thread silently, and training then waits for ever for a place in the queue. So events are written
here without a thread.
"""

import dataclasses
import importlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

from cvvae_jax.errors import UserError
from cvvae_jax.resumable.files import write_whole
from cvvae_jax.training.metric_names import describe


@dataclasses.dataclass(frozen=True)
class Report:
    """What a callback is told."""

    stage: str
    """The stage that trains: `image VAE` or `video VAE`."""
    step: int
    """Steps of the stage that are done."""
    metrics: dict[str, float | int]
    """By name, as metrics.jsonl has them: every `log_every` steps those of a step, and after an
    evaluation its scores, `eval/NAME`."""
    animation: np.ndarray | None = None
    """After an evaluation, in a report of its own: uint8 (t, h, w, 3), the first clips beside each
    other; in rows the inputs, the reconstructions and the image decoder's view."""


Callback = Callable[[Report], None]
"""Is told of a run while it trains, in process 0 alone. What it raises ends the run."""


class TensorBoard:
    """Event files in one folder. After a failed write a new file is begun."""

    def __init__(self, folder: Path, *, first_step: int):
        """Prepares the events of steps from `first_step` on; TensorBoard will not show earlier
        files' events of these steps."""
        self._folder, self._first_step = folder, first_step
        self._writer: EventsWriter | None = None
        self._files = 0

    def scalars(self, step: int, metrics: dict[str, float | int]) -> None:
        """Writes the metrics of a step, without those that are not finite, which TensorBoard can't
        show.

        Raises:
            OSError: the file can't be written.
        """
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        values = [
            Summary.Value(tag=name, simple_value=value, metadata=_described(describe(name)))
            for name, value in finite.items()
        ]
        self._write(Event(step=step, summary=Summary(value=values)))

    def animation(self, step: int, name: str, gif: bytes, *, height: int, width: int) -> None:
        """Writes an animation, whose name says what its rows show: a GIF file, and its size in
        pixels.

        Raises:
            OSError: the file can't be written.
        """
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        text = f"Clips that the run is not trained on, beside each other; rows, from above: {name}."
        value = Summary.Value(tag=name, image=image, metadata=_described(text))
        self._write(Event(step=step, summary=Summary(value=[value])))

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        try:
            if self._writer is None:
                self._writer = self._begin()
            self._writer.write_event(event)
            self._writer.flush()
        except OSError:
            self._writer = None  # readers stop at an event that was written in part
            raise

    def _begin(self) -> EventsWriter:
        self._folder.mkdir(exist_ok=True)
        self._files += 1
        writer = EventsWriter(str(self._folder / "events"), filename_suffix=f".{self._files}")
        start = SessionLog(status=SessionLog.START)
        writer.write_event(Event(step=self._first_step, session_log=start, wall_time=time.time()))
        return writer


def _described(text: str) -> SummaryMetadata:
    """What TensorBoard shows beside a plot."""
    return SummaryMetadata(summary_description=text)


def require_wandb(project: str | None) -> ModuleType | None:
    """The module `wandb`; None where no project is named.

    Raises:
        UserError: a project is named, and wandb is not installed.
    """
    if project is None:
        return None
    try:
        module = importlib.import_module("wandb")
        if not hasattr(module, "init"):
            raise ImportError("there is just a folder of that name")  # which wandb writes
    except ImportError as error:
        raise UserError(
            f"--wandb {project} needs Weights & Biases: pip install wandb ({error})."
        ) from error
    return module


class WandbRun:
    """A training stage as a run of Weights & Biases, which a restart of the stage continues."""

    def __init__(self, project: str, folder: Path, *, title: str, settings: dict[str, Any]):
        """Starts the run, or continues the one whose id is in the folder.

        Args:
            project: the project; the run's group has the name of the whole run's folder.
            folder: the stage's run folder, for `wandb_id` and the local files of Weights & Biases.
            title: the stage's name in messages.
            settings: the settings of the whole run, which Weights & Biases shows.

        Raises:
            UserError: Weights & Biases is not installed or does not accept the run.
        """
        self._wandb = require_wandb(project)
        id_file = folder / "wandb_id"
        group = Path(settings.get("workdir", folder)).resolve().name
        try:
            self._run = self._wandb.init(
                project=project,
                group=group,
                name=f"{group}: {title}",
                id=id_file.read_text(errors="replace").strip() if id_file.exists() else None,
                resume="allow",
                dir=str(folder),
                config=settings,
            )
        except self._wandb.Error as error:
            raise UserError(f"Weights & Biases does not accept the run: {error}") from error
        write_whole(id_file, self._run.id)
        # Weights & Biases keeps the first metrics of a step. Steps that are done again after a kill
        # have the same metrics; those after a divergence have others, which are not shown there.
        self._first_step = self._run.starting_step

    def scalars(self, step: int, metrics: dict[str, float | int]) -> None:
        """Logs numbers of a step."""
        if step >= self._first_step:
            self._run.log(metrics, step=step)

    def animation(self, step: int, name: str, path: Path) -> None:
        """Logs a GIF file."""
        if step >= self._first_step:
            self._run.log({name: self._wandb.Video(str(path), format="gif")}, step=step)

    def close(self) -> None:
        """Sends all remaining data, and ends the run."""
        self._run.finish()

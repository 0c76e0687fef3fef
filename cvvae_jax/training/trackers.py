"""TensorBoard and Weights & Biases.

tensorboardX's own SummaryWriter leaves that to a thread, which a full disk ends without a word; the
next step but ten then waits for it for ever.
"""

import importlib
import math
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from cvvae_jax.errors import UserError
from cvvae_jax.resumable.files import write_whole


class TensorBoard:
    """One folder of event files; a new file is begun where one could not be written on."""

    def __init__(self, folder: Path, *, first_step: int):
        """Describe the events to come; those of steps from `first_step` on that are there already
        will not be shown."""
        self._folder, self._first_step = folder, first_step
        self._writer: EventsWriter | None = None
        self._files = 0

    def scalars(self, step: int, metrics: dict[str, float | int]) -> None:
        """Numbers of a step, but for those that are not finite, which it can't show.

        Raises:
            OSError: they can't be written.
        """
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        values = [Summary.Value(tag=name, simple_value=value) for name, value in finite.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def animation(self, step: int, name: str, gif: bytes, *, height: int, width: int) -> None:
        """A GIF file of so many pixels.

        Raises:
            OSError: it can't be written.
        """
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)])))

    def close(self) -> None:
        """End the file; all of it is on disk."""
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
            self._writer = None  # what follows half an event can't be read
            raise

    def _begin(self) -> EventsWriter:
        self._folder.mkdir(exist_ok=True)
        self._files += 1
        writer = EventsWriter(str(self._folder / "events"), filename_suffix=f".{self._files}")
        start = SessionLog(status=SessionLog.START)
        writer.write_event(Event(step=self._first_step, session_log=start, wall_time=time.time()))
        return writer


def require_wandb(project: str | None) -> ModuleType | None:
    """The module that logs to Weights & Biases; None without a project, which needs none.

    Raises:
        UserError: it is asked for and not installed.
    """
    if project is None:
        return None
    try:
        module = importlib.import_module("wandb")
        if not hasattr(module, "init"):
            raise ImportError("there is just a folder of that name")  # as it leaves them behind
    except ImportError as error:
        raise UserError(
            f"--wandb {project} needs Weights & Biases: pip install wandb ({error})."
        ) from error
    return module


class WandbRun:
    """A training stage as a run of Weights & Biases; a stage that goes on, goes on there too."""

    def __init__(self, project: str, folder: Path, *, title: str, settings: dict[str, Any]):
        """Starts the run, or goes on with the one whose id is in the folder.

        Args:
            project: where it is filed, in the group of the whole run's folder.
            folder: the stage's own, for `wandb_id` and what Weights & Biases keeps locally.
            title: the stage's name in messages.
            settings: the whole run's, to be shown beside it.

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
        # Its steps can't be taken back. Those that are done again after a kill are equal, but where
        # they are not, after going back from a divergence, the first ones stay there.
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
        """Sends what is still here, and ends the run."""
        self._run.finish()

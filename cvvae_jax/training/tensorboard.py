"""TensorBoard's event files, written at once.

tensorboardX's own SummaryWriter leaves that to a thread, which a full disk ends without a word; the
next step but ten then waits for it for ever.
"""

import math
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


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

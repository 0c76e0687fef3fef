"""Saves of several processes that fail together.

Orbax's processes wait for each other at the end of a save. One that has failed doesn't come, and
the others wait for it for twenty minutes. Here a failure is held back until all are there.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

_MARK = "written-by-"
_PATIENCE = 10.0  # seconds


class TogetherHandler(ocp.CompositeCheckpointHandler):
    """Saves items; what went wrong is left in `error` rather than raised."""

    error: Exception | None = None
    """Of the newest save, in this process; in process 0 also that another one failed."""

    async def async_save(self, directory: Any, args: Any) -> list[Any]:
        """As Orbax's, with futures that never fail."""
        self.error = None
        futures = await super().async_save(directory, args)
        mark = Path(directory) / f"{_MARK}{jax.process_index()}"
        return [_Held(self, future.result) for future in futures] + [_Held(self, self._mark(mark))]

    def _mark(self, path: Path) -> Callable[[float | None], None]:
        """What says to process 0 that this one's parts are written, which come before it."""

        def mark(_: float | None) -> None:
            if self.error is None:
                path.touch()

        return mark

    def finalize(self, directory: Any) -> None:
        """As Orbax's, if all processes have written their parts; in process 0, when they all have
        tried. After an error the parts are removed, so that a full disk has room again."""
        folder = Path(directory)
        missing = [
            str(process)
            for process in range(jax.process_count())
            if not (folder / f"{_MARK}{process}").exists()
        ]
        if missing and self.error is None:
            self.error = RuntimeError(f"process {', '.join(missing)} could not write its part")
        for mark in folder.glob(f"{_MARK}*"):
            mark.unlink()
        if self.error is None:
            try:
                super().finalize(directory)
            except Exception as error:  # Orbax and TensorStore raise bare ones
                self.error = error
        if self.error is not None:
            for entry in folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)


@ocp.args.register_with_handler(TogetherHandler, for_save=True, for_restore=True)
class TogetherArgs(ocp.args.Composite):
    """The items of a save."""


class _Held:
    """The future of one part of a save."""

    def __init__(self, handler: TogetherHandler, result: Callable[[float | None], Any]):
        self._handler, self._result = handler, result

    def result(self, timeout: float | None = None) -> None:
        """Waits for it; after an error not for long, since it may wait for what has failed."""
        try:
            self._result(timeout if self._handler.error is None else _PATIENCE)
        except Exception as error:  # Orbax and TensorStore raise bare ones
            self._handler.error = self._handler.error or error

    def cancel(self) -> None:
        """Nothing is ever canceled."""

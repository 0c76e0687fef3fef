"""Saving with Orbax on several processes: all fail together, and the failure is reported once.

Orbax's processes wait for each other when folders are made and at the end of a save. A process
that has failed doesn't arrive, and the others wait for it for twenty minutes. Here a failure is
held back until all processes have arrived.
"""

import contextlib
import functools
import logging
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

_lock = threading.Lock()
_active = 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses the log messages of Orbax, but not its errors. After an error the messages stay
    suppressed: the other parts of what failed go on, and log their own failures later."""
    begin_quiet()
    yield
    end_quiet()


def begin_quiet() -> None:
    """Suppresses the log messages of Orbax until `end_quiet`. Calls from any threads may nest."""
    _drop_leftovers()
    _count(1)


def end_quiet() -> None:
    """Ends one `begin_quiet`; messages appear again when all have ended."""
    _count(-1)


def _count(change: int) -> None:
    """Changes the number of callers that suppress messages, and sets or removes the filter."""
    global _active
    with _lock:
        _active += change
        if _active:
            logging.getLogger("absl").addFilter(_not_of_orbax)  # not a second time
        else:
            logging.getLogger("absl").removeFilter(_not_of_orbax)


@functools.cache
def _drop_leftovers() -> None:
    """Suppresses what the other parts of a failed read or write report when they end: that an
    event loop is closed, or that nobody took their error. Some report at the interpreter's exit."""
    logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())
    # Some parts of a failed save are never awaited.
    warnings.filterwarnings("ignore", "coroutine 'async_serialize", RuntimeWarning)
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not _of_orbax(unraisable):
            before(unraisable)

    sys.unraisablehook = hook


def _of_orbax(unraisable: Any) -> bool:
    """Whether an unraisable error comes from a coroutine of Orbax, or from TensorStore's threads.

    Those threads aren't Python's: they call an event loop directly, and the error names no object.
    Errors of other event loops that were closed too early name one, and are reported.
    """
    code = getattr(unraisable.object, "cr_code", None)
    if code is not None:
        return "orbax" in code.co_filename
    error, first = unraisable.exc_value, unraisable.exc_traceback
    closed = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
    caller = first.tb_frame.f_code.co_name if first is not None else None
    return closed and unraisable.object is None and caller == "call_soon_threadsafe"


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


_MARK = "written-by-"
_PATIENCE = 10.0  # seconds
# Folders that are made in the background send a signal for which the other processes wait.
_AT_ONCE = ocp.AsyncOptions(create_directories_asynchronously=False)


class TogetherHandler(ocp.CompositeCheckpointHandler):
    """Saves items; an error is kept in `error` rather than raised."""

    error: Exception | None = None
    """The first error of the newest save in this process; in process 0 also that another process
    failed. The caller sets it to None before a save."""

    def __init__(self, **items: Any):
        """Takes the handler of every item, by the item's name."""
        self.temporary_path_class = _held_paths(self)
        options = ocp.CompositeOptions(
            temporary_path_class=self.temporary_path_class, async_options=_AT_ONCE
        )
        super().__init__(composite_options=options, **items)

    def checkpointer(self) -> ocp.AsyncCheckpointer:
        """A checkpointer that saves with this handler."""
        return ocp.AsyncCheckpointer(
            self, async_options=_AT_ONCE, temporary_path_class=self.temporary_path_class
        )

    def hold(self, error: Exception) -> None:
        """Keeps an error, if it is the first one."""
        self.error = self.error or error

    async def async_save(self, directory: Any, args: Any) -> list[Any]:
        """Saves as Orbax does, but neither this coroutine nor its futures ever fail."""
        try:
            futures = await super().async_save(directory, args)
        except Exception as error:  # Orbax and TensorStore raise bare ones
            self.hold(error)
            futures = []
        mark = Path(directory) / f"{_MARK}{jax.process_index()}"
        return [_Held(self, future.result) for future in futures] + [_Held(self, self._mark(mark))]

    def _mark(self, path: Path) -> Callable[[float | None], None]:
        """A function that tells process 0, by a file, that this process has written its parts."""

        def mark(_: float | None) -> None:
            if self.error is None:
                path.touch()

        return mark

    def finalize(self, directory: Any) -> None:
        """Finalizes as Orbax does, if all processes have written their parts. Process 0 calls this
        when all have tried. After an error the parts are removed, to free a full disk."""
        folder = Path(directory)
        missing = [
            str(process)
            for process in range(jax.process_count())
            if not (folder / f"{_MARK}{process}").exists()
        ]
        if missing and self.error is None:
            self.error = RuntimeError(f"process {', '.join(missing)} could not write its part")
        try:
            for mark in folder.glob(f"{_MARK}*"):
                mark.unlink()
            if self.error is None:
                super().finalize(directory)
        except Exception as error:  # Orbax and TensorStore raise bare ones
            self.hold(error)
        if self.error is not None:
            for entry in folder.iterdir() if folder.is_dir() else ():
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
        """Waits for this part; after an error only briefly, since the part may never end."""
        try:
            self._result(timeout if self._handler.error is None else _PATIENCE)
        except Exception as error:  # Orbax and TensorStore raise bare ones
            self._handler.hold(error)

    def cancel(self) -> None:
        """Does nothing: saves are never canceled."""


def _held_paths(handler: TogetherHandler) -> type[ocp.path.atomicity.AtomicRenameTemporaryPath]:
    """A class of Orbax's temporary folders whose errors are held back. Process 0 makes and renames
    them while the other processes wait."""

    class HeldPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
        async def create(self) -> Any:
            try:
                return await super().create()
            except Exception as error:  # Orbax raises bare ones
                handler.hold(error)
                return self.get()

        async def finalize(self) -> None:
            try:
                await super().finalize()
            except Exception as error:  # Orbax raises bare ones
                handler.hold(error)

    return HeldPath

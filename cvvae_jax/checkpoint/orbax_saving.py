"""Saves of several processes that fail together, and that say so once.

Orbax's processes wait for each other when folders are made and at the end of a save. One that has
failed doesn't come, and the others wait for it for twenty minutes. Here a failure is held back
until all are there.
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
    """Keeps the log messages of Orbax to itself; what is raised still is. After an error for good:
    the other parts of what failed go on, and complain later."""
    begin_quiet()
    yield
    end_quiet()


def begin_quiet() -> None:
    """The same until `end_quiet`. Any number of threads and places may ask for it."""
    _drop_leftovers()
    _count(1)


def end_quiet() -> None:
    """The end of one `begin_quiet`."""
    _count(-1)


def _count(change: int) -> None:
    """How many ask for quiet."""
    global _active
    with _lock:
        _active += change
        if _active:
            logging.getLogger("absl").addFilter(_not_of_orbax)  # not a second time
        else:
            logging.getLogger("absl").removeFilter(_not_of_orbax)


@functools.cache
def _drop_leftovers() -> None:
    """The other parts of a read or write that failed complain when they end, of a loop that is
    closed or of nobody who asks for their error; that may be as late as the interpreter's end."""
    logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())
    # Nor are all parts of it waited for.
    warnings.filterwarnings("ignore", "coroutine 'async_serialize", RuntimeWarning)
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not _of_orbax(unraisable):
            before(unraisable)

    sys.unraisablehook = hook


def _of_orbax(unraisable: Any) -> bool:
    """Whether it is of a coroutine of Orbax, or of TensorStore's threads, which are no Python and
    tell a loop directly, naming no object: others' loops that are closed too early are told of."""
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
    """Saves items; what went wrong is left in `error` rather than raised."""

    error: Exception | None = None
    """Of the newest save, in this process; in process 0 also that another one failed. Whoever
    starts a save sets it to None."""

    def __init__(self, **items: Any):
        """Saves the items by these handlers."""
        self.temporary_path_class = _held_paths(self)
        options = ocp.CompositeOptions(
            temporary_path_class=self.temporary_path_class, async_options=_AT_ONCE
        )
        super().__init__(composite_options=options, **items)

    def checkpointer(self) -> ocp.AsyncCheckpointer:
        """What saves by this handler."""
        return ocp.AsyncCheckpointer(
            self, async_options=_AT_ONCE, temporary_path_class=self.temporary_path_class
        )

    def hold(self, error: Exception) -> None:
        """Keeps an error, if it is the first."""
        self.error = self.error or error

    async def async_save(self, directory: Any, args: Any) -> list[Any]:
        """As Orbax's, but neither it nor its futures ever fail."""
        try:
            futures = await super().async_save(directory, args)
        except Exception as error:  # Orbax and TensorStore raise bare ones
            self.hold(error)
            futures = []
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
        """Waits for it; after an error not for long, since it may wait for what has failed."""
        try:
            self._result(timeout if self._handler.error is None else _PATIENCE)
        except Exception as error:  # Orbax and TensorStore raise bare ones
            self._handler.hold(error)

    def cancel(self) -> None:
        """Nothing is ever canceled."""


def _held_paths(handler: TogetherHandler) -> type[ocp.path.atomicity.AtomicRenameTemporaryPath]:
    """Orbax's temporary folders, made and renamed by process 0 while the others wait for it."""

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

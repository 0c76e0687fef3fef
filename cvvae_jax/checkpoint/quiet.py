"""Orbax's noise: it tells of a failure by several tracebacks before it raises, and afterwards."""

import contextlib
import functools
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

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

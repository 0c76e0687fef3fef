"""Orbax's noise: it tells of a failure by several tracebacks before it raises."""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

_lock = threading.Lock()
_active = 0
_previous_hook: Any = None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the log messages of Orbax to itself, and the complaints of futures that outlive a
    failed read or write; what is raised still is. Any number of threads may be inside."""
    global _active, _previous_hook
    with _lock:
        _active += 1
        if _active == 1:
            logging.getLogger("absl").addFilter(_not_of_orbax)
            _previous_hook, sys.unraisablehook = sys.unraisablehook, _hook
    try:
        yield
    finally:
        with _lock:
            _active -= 1
            if _active == 0:
                logging.getLogger("absl").removeFilter(_not_of_orbax)
                sys.unraisablehook = _previous_hook


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _hook(unraisable: Any) -> None:
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        _previous_hook(unraisable)

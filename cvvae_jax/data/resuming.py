"""What commands share that write a folder and go on where they were interrupted."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cvvae_jax.config import ConfigError
from cvvae_jax.config.home import at_home
from cvvae_jax.data.files import is_remote

Track = Callable[..., Iterable]
"""Shows progress: `track(items, total=.., unit=..)` gives the items."""
GOES_ON = "What is finished stays, and the same command goes on."


def absolute(place: str) -> str:
    """A place that means the same wherever the command runs, and its workers."""
    if is_remote(place) or place.startswith("tfds:"):
        return place
    return os.path.abspath(at_home(place))


@contextlib.contextmanager
def named_errors(place: str) -> Iterator[None]:
    """Turns what file systems raise while a folder is written into a ConfigError that names it."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        # Remote file systems have errors of their own.
        if isinstance(error, OSError) or is_remote(place):
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise ConfigError(f"{place} cannot be finished: {reason}. {GOES_ON}") from error
        raise


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Makes SIGTERM the same as Ctrl-C, with a message for both."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupt) if is_main else None
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(GOES_ON) from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt

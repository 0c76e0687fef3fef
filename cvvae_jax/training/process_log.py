"""What every process keeps of a run, on its own: its start, its warnings, and how it ended."""

import contextlib
import logging
import logging.handlers
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import jax

from cvvae_jax.config import ConfigError
from cvvae_jax.training.stop import Stopped

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def process_log(folder: Path) -> Iterator[None]:
    """Meanwhile, what the package warns of and what ends this process goes to
    `logs/process_000.log` of a run folder (of process 0), of which the newest 40 MB are kept.

    Raises:
        ConfigError: it can't be written.
    """
    path = folder / "logs" / f"process_{jax.process_index():03d}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=10 * 2**20, backupCount=3, encoding="utf-8", errors="backslashreplace"
        )
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error}.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("cvvae_jax")
    logger.addHandler(handler)
    _tell(handler, logging.INFO, _start())
    try:
        yield
    except (Stopped, ConfigError) as end:
        _tell(handler, logging.INFO if isinstance(end, Stopped) else logging.ERROR, str(end))
        raise
    except BaseException as error:
        _tell(handler, logging.CRITICAL, "ended by an error", error)
        raise
    else:
        _tell(handler, logging.INFO, "done")
    finally:
        logger.removeHandler(handler)
        handler.close()


def _tell(
    handler: logging.Handler, level: int, text: str, error: BaseException | None = None
) -> None:
    """Into the file only: who sees the terminal is told otherwise."""
    exception = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(_log.name, level, __file__, 0, text, None, exception)
    handler.handle(record)


def _start() -> str:
    devices = jax.local_devices()
    return (
        f"process {jax.process_index()} of {jax.process_count()} starts on {socket.gethostname()}, "
        f"pid {os.getpid()}, jax {jax.__version__}, with {len(devices)} x {devices[0].device_kind} "
        f"of {jax.device_count()}: {', '.join(map(str, devices))}"
    )

"""Files that are whole or not there: they are written beside their place, and named at the end."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from cvvae_jax.config import ConfigError

_NAME_LENGTH = 40  # of a name that goes into that of its file aside, which has 255 bytes at most


def new_beside(path: Path) -> Path:
    """A new, empty file beside `path`, with its suffix; nobody's file is opened, not even through
    a link.

    Raises:
        OSError: it can't be made.
    """
    aside = path.with_name(f".{path.stem[:_NAME_LENGTH]}.{uuid.uuid4().hex}{path.suffix}")
    aside.touch(exist_ok=False)
    return aside


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write, which takes its place when the block ends. After an
    exception it is removed, and `path` is as it was.

    Raises:
        OSError: it can't be made, or not be named.
    """
    aside = new_beside(path)
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def require_vacant(path: Path, *, overwrite: bool) -> None:
    """Raise ConfigError where a file to write is there already, and is not to be replaced, or where
    none can have that name.

    A link counts as a file, wherever it leads.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
    if not overwrite:
        raise ConfigError(f"{path} exists; --overwrite replaces it.")


def require_writable(path: Path) -> None:
    """Raise ConfigError where no file can be written."""
    try:
        new_beside(path).unlink()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error

"""Files that are whole or as they were before: written beside their place, then moved."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvvae_jax.errors import UserError

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
    """Raise UserError where a file to write exists already and is not to be replaced, or where no
    file can have that name.

    A link counts as a file, wherever it leads.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    if not overwrite:
        raise UserError(f"{path} exists; --overwrite replaces it.")


def require_writable(path: Path) -> None:
    """Raise UserError where no file can be written."""
    try:
        new_beside(path).unlink()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file beside its place and then moves it there; text as UTF-8.

    Raises:
        OSError: the disk is full or not writable; what was there is there still.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object that a file holds; None where it is none, since it was cut or damaged.

    Raises:
        OSError: it isn't there, or can't be read now.
    """
    return parse_json(path.read_bytes())


def parse_json(text: bytes) -> dict[str, Any] | None:
    """The object that a text is; None where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # of which errors of UTF-8 are one kind
        return None
    return found if isinstance(found, dict) else None

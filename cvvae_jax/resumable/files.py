"""Atomic writes: a file is written beside its place and then renamed, so it is never half there."""

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvvae_jax.errors import UserError

# Characters of a file's own name within its temporary name, which may have 255 bytes at most.
_NAME_LENGTH = 40


def new_beside(path: Path) -> Path:
    """A new, empty file in the folder of `path`, hidden, with the suffix of `path`.

    The name is random, so that no existing file is opened, not even through a link.

    Raises:
        OSError: the file can't be made.
    """
    temporary = path.with_name(f".{path.stem[:_NAME_LENGTH]}.{uuid.uuid4().hex}{path.suffix}")
    temporary.touch(exist_ok=False)
    return temporary


@contextlib.contextmanager
def written_aside(path: Path, *, keep_first: bool = False) -> Iterator[Path]:
    """A new file beside `path` to write, which replaces `path` when the block ends.

    After an exception the new file is removed, and `path` is as it was.

    Args:
        path: the file to write.
        keep_first: a file that is already at `path` stays, and the new one is removed. Of several
            processes that write the same file, the first one wins.

    Raises:
        OSError: the new file can't be made or renamed.
    """
    temporary = new_beside(path)
    try:
        yield temporary
        if keep_first:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        else:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file, and wait until its content is on the disk. Text is written as UTF-8.

    Raises:
        OSError: the disk is full or not writable; a file that was there before is unchanged.
    """
    data = content.encode() if isinstance(content, str) else content
    with written_aside(path) as temporary:
        temporary.write_bytes(data)
        sync(temporary)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk.

    Raises:
        OSError: they can't be written.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        # Some network file systems write names at once and have no such call for folders.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(opened)


def file_sha256(path: Path | str) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits, as `sha256sum` shows it.

    Raises:
        OSError: the file can't be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_vacant(path: Path, *, overwrite: bool) -> None:
    """Raise UserError where a file to write exists and must not be replaced, or where no file can
    have that name.

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


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where the file holds none, since it was cut or damaged.

    Raises:
        OSError: the file doesn't exist, or can't be read now.
    """
    return parse_json(path.read_bytes())


def parse_json(text: bytes) -> dict[str, Any] | None:
    """The JSON object in a text; None where the text is anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # errors of UTF-8 are ValueErrors
        return None
    return found if isinstance(found, dict) else None

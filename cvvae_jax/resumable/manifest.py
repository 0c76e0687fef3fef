"""The list of a folder's files, with their sizes and SHA-256, and the check against it.

Orbax restores flipped bytes without noticing, and takes a file that is cut short for a crash.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

NAME = "manifest.json"
"""It lies in the folder itself."""

_THREADS = 4  # hashing lets other threads run


def write(folder: Path) -> None:
    """Lists all files of a folder, which nobody must change from now on, and waits until they are
    on the disk: else a crash of the machine could leave the folder's name without its content.

    Raises:
        OSError: the disk is full, or a file can't be read.
    """
    names = [name for name in _names(folder) if name != NAME]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        entries = pool.map(lambda name: _written(folder / name), names)
        listed = dict(zip(names, entries, strict=True))
    partial = folder / f"{NAME}.partial"
    with partial.open("w") as file:
        file.write(_text(listed))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / NAME)
    for place, _, _ in os.walk(folder):
        sync(Path(place))


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk.

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


def problems(
    folder: Path, *, items: tuple[str, ...] | None = None, hash_up_to: int | None = None
) -> list[str]:
    """What differs from the manifest, a few words each that begin with the file's name; nothing
    where all is as it was written.

    Args:
        folder: one with a manifest.
        items: only the files under these subfolders; None: every file.
        hash_up_to: larger files, in bytes, are compared by size alone; None: all are read.

    Raises:
        OSError: a file is there and can't be read now, which is no sign of damage.
    """
    try:
        with _readable(folder / NAME):
            raw = (folder / NAME).read_bytes()
    except FileNotFoundError:
        return [f"{NAME} is missing"]
    try:
        listed = json.loads(raw)["files"]
        if not _lists_files(listed) or _text(listed).encode() != raw:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        return [f"{NAME} is damaged"]

    def wanted(names: Iterable[str]) -> set[str]:
        return {name for name in names if items is None or name.split("/")[0] in items}

    listed_names, there = wanted(listed), wanted(_names(folder)) - {NAME}
    found = {name: f"{name} is missing" for name in listed_names - there}
    # Network file systems and file managers leave hidden files anywhere.
    added = (name for name in there - listed_names if not Path(name).name.startswith("."))
    found |= {name: f"{name} was not there" for name in added}
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        both = sorted(listed_names & there)
        changes = pool.map(lambda name: _change(folder / name, listed[name], hash_up_to), both)
        found |= {name: f"{name} {how}" for name, how in zip(both, changes, strict=True) if how}
    return [found[name] for name in sorted(found)]


def _change(path: Path, entry: dict[str, Any], hash_up_to: int | None) -> str | None:
    """What is wrong with a file, in words; None where it is as it was written."""
    try:
        with _readable(path):
            size = path.stat().st_size
            if size != entry["bytes"]:
                return f"has {size} bytes instead of {entry['bytes']}"
            if (hash_up_to is None or size <= hash_up_to) and _entry(path) != entry:
                return "has changed since it was written (by its SHA-256)"
    except FileNotFoundError:
        return "is missing"
    return None


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Says of an error what it means for the checkpoint."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = f"{error.strerror}; whether the checkpoint is damaged can't be told"
        raise OSError(error.errno, reason, str(path)) from error


def _written(path: Path) -> dict[str, Any]:
    """What the manifest says of a file, once that is on the disk."""
    sync(path)
    return _entry(path)


def _entry(path: Path) -> dict[str, Any]:
    """What the manifest says of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _text(listed: dict[str, Any]) -> str:
    """The manifest of these files; the only text that is accepted for them, to the byte."""
    own = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    return json.dumps({"files": listed, "sha256": own}, indent=1) + "\n"


def _lists_files(listed: Any) -> bool:
    """Whether something is as a manifest's files are; its own hash proves nothing of a manifest
    that others have made."""
    return isinstance(listed, dict) and all(
        isinstance(entry, dict) and entry.keys() == {"bytes", "sha256"} for entry in listed.values()
    )


def _names(folder: Path) -> list[str]:
    """Every file below a folder, by its path in it."""
    found = []
    for place, _, files in os.walk(folder, onerror=_unlistable):
        found += [(Path(place) / file).relative_to(folder).as_posix() for file in files]
    return sorted(found)


def _unlistable(error: OSError) -> None:
    """A folder that can't be listed would look like one without files."""
    if not isinstance(error, FileNotFoundError):
        with _readable(Path(error.filename)):
            raise error

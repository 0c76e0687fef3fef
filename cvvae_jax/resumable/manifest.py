"""manifest.json: the size and SHA-256 of every file in a folder, and the check of the files.

Orbax restores files with flipped bytes without an error, and crashes on files that are cut short.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cvvae_jax.resumable.files import file_sha256, sync, write_whole

NAME = "manifest.json"
"""The manifest lies in the folder that it describes."""

_THREADS = 4  # hashing lets other threads run


def write(folder: Path) -> None:
    """List all files of a folder, which nobody may change from now on, and wait until they are on
    the disk: otherwise a crash of the machine could leave the folder's name without its content.

    Raises:
        OSError: the disk is full, or a file can't be read.
    """
    names = [name for name in _names(folder) if name != NAME]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        entries = pool.map(lambda name: _synced_entry(folder / name), names)
        listed = dict(zip(names, entries, strict=True))
    write_whole(folder / NAME, _text(listed))
    for place, _, _ in os.walk(folder):
        sync(Path(place))


def problems(
    folder: Path, *, items: tuple[str, ...] | None = None, hash_up_to: int | None = None
) -> list[str]:
    """What differs from the manifest: a few words for each file, which begin with its name. The
    list is empty where every file is as it was written.

    Args:
        folder: a folder with a manifest.
        items: the subfolders whose files are compared; None for all files.
        hash_up_to: files of more bytes than this are compared by their size alone; None to read
            and hash all files.

    Raises:
        OSError: a file exists but can't be read now, which is no sign of damage.
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
    """How a file differs from its entry in the manifest; None where it doesn't."""
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
    """Adds to an error that it doesn't tell whether the checkpoint is damaged."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = f"{error.strerror}; whether the checkpoint is damaged can't be told"
        raise OSError(error.errno, reason, str(path)) from error


def _synced_entry(path: Path) -> dict[str, Any]:
    """The entry of a file in the manifest, once the file is on the disk."""
    sync(path)
    return _entry(path)


def _entry(path: Path) -> dict[str, Any]:
    """The entry of a file in the manifest."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _text(listed: dict[str, Any]) -> str:
    """The text of the manifest. No other text is accepted for the same files, to the byte."""
    own = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    return json.dumps({"files": listed, "sha256": own}, indent=1) + "\n"


def _lists_files(listed: Any) -> bool:
    """Whether something is as a manifest's files are; its own hash proves nothing of a manifest
    that others have made."""
    return isinstance(listed, dict) and all(
        isinstance(entry, dict) and entry.keys() == {"bytes", "sha256"} for entry in listed.values()
    )


def _names(folder: Path) -> list[str]:
    """The paths of all files below a folder, relative to it."""
    found = []
    for place, _, files in os.walk(folder, onerror=_unlistable):
        found += [(Path(place) / file).relative_to(folder).as_posix() for file in files]
    return sorted(found)


def _unlistable(error: OSError) -> None:
    """Raises the error: a folder that can't be listed would look like one without files."""
    if not isinstance(error, FileNotFoundError):
        with _readable(Path(error.filename)):
            raise error

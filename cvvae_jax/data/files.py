"""Media files by their paths: folders, patterns and lists, on local disks or in buckets."""

import contextlib
import csv
import glob
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import fsspec

from cvvae_jax.config.places import at_home, is_absolute, is_remote
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.containers import IMAGE_SUFFIXES, VIDEO_SUFFIXES, suffix
from cvvae_jax.video_io.media_types import Blob, MediaKind, NothingFound

SUFFIXES = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
"""Suffixes of the files of each kind."""
# Seconds to wait before each new attempt to read a remote file.
_WAITS = (0.5, 2.0, 8.0)
_LISTS = (".csv", ".jsonl")
_LISTED_SCHEMES = ("gs://", "s3://")  # addresses that any list may name


class Files:
    """The files of a kind in a folder and its subfolders, or of a pattern, sorted by path."""

    def __init__(self, place: str, kind: MediaKind):
        """Find the files.

        Args:
            place: the folder or pattern, a local path or an address that fsspec knows.
            kind: "video" or "image"; the suffix of a file decides.

        Raises:
            UserError: there is no such folder, or no such file.
        """
        found = [path for path in find(place) if suffix(path) in SUFFIXES[kind]]
        self._paths = sorted(path for path in found if not _hidden(path))
        if not self._paths:
            raise NothingFound(
                f"{place} holds no {kind} file: none ends in {', '.join(SUFFIXES[kind])}."
            )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Path | Blob:
        """File `index`; a remote one is fetched."""
        return fetch(self._paths[index])

    def name(self, index: int) -> str:
        """Path or address of file `index`."""
        return self._paths[index]


class FileList(Files):
    """The files that a list names: .csv with a header, or .jsonl, with a column `path`.

    Paths that are not absolute are relative to the folder of the list.
    """

    def __init__(self, place: str, kind: MediaKind):
        """Read the list.

        Args:
            place: the list, a local path or an address that fsspec knows.
            kind: "video" or "image"; the suffix of a file decides.

        Raises:
            UserError: the list cannot be read, names no file of the kind, or has a row without a
                path or with an address that lists may not name.
        """
        folder = place.rpartition("/")[0]
        self._paths = [
            path if is_absolute(path) or not folder else f"{folder}/{path}"
            for path in _listed(place)
            if suffix(path) in SUFFIXES[kind]
        ]
        if not self._paths:
            raise NothingFound(
                f"{place} names no {kind} file: none ends in {', '.join(SUFFIXES[kind])}."
            )


def is_file_list(place: str) -> bool:
    """Whether a place is a list of files."""
    return suffix(place) in _LISTS


def find(place: str) -> list[str]:
    """All files below a folder, or all that match a pattern, unsorted.

    Raises:
        UserError: there is no such folder.
    """
    if is_remote(place):
        with readable(place):
            system, path = fsspec.core.url_to_fs(place)
            names = system.glob(path) if glob.has_magic(path) else system.find(path)
            return [system.unstrip_protocol(name) for name in names]
    if os.path.isdir(place):
        return list(_walk(place))
    if os.path.isfile(place):
        return [place]
    if glob.has_magic(place):
        return [path for path in glob.iglob(place, recursive=True) if os.path.isfile(path)]
    raise UserError(f"{place}: no such file or folder.")


def fetch(path: str) -> Path | Blob:
    """The path of a local file; a remote file, read into memory."""
    if not is_remote(path):
        return Path(path)
    return Blob(path, fetch_bytes(path))


def fetch_bytes(path: str, start: int | None = None, stop: int | None = None) -> bytes:
    """The bytes of a remote file, all or those from `start` to `stop`, after up to four attempts.

    Raises:
        UserError: the file cannot be read.
    """
    with readable(path):
        system, name = fsspec.core.url_to_fs(path)
        for seconds in _WAITS:
            try:
                return system.cat_file(name, start=start, end=stop)
            except (FileNotFoundError, PermissionError):
                raise
            except Exception:  # every file system has errors of its own
                time.sleep(seconds)
        return system.cat_file(name, start=start, end=stop)


@contextlib.contextmanager
def readable(place: str) -> Iterator[None]:
    """Turns whatever a file system raises while a place is read into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # every file system has errors of its own
        raise UserError(f"{place} cannot be read: {type(error).__name__}: {error}.") from error


def _walk(folder: str) -> Iterator[str]:
    """Files below a folder. Links to folders are followed, but no folder is entered twice."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # Sorted, so that a folder with two paths is always found by the same one.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for name in names if os.path.isfile(path := os.path.join(root, name)))


def _json_lines(file: Iterable[str]) -> Iterator[dict]:
    return (json.loads(line) for line in file if line.strip())


def _hidden(path: str) -> bool:
    return os.path.basename(path).startswith(".")


def _listed(place: str) -> list[str]:
    with readable(place), fsspec.open(place, "rt", newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file) if suffix(place) == ".csv" else _json_lines(file)
        paths = [at_home(row.get("path") or "") for row in rows]
    for number, path in enumerate(paths, 1):
        if not path:
            raise UserError(f"{place}: row {number} names no file: it has no `path`.")
        if is_remote(path) and not _is_plain_address(path, place):
            raise UserError(
                f"{place}: row {number} names {path}; a list may name local paths, and addresses "
                f"of {', '.join(_LISTED_SCHEMES)} and of the place where it lies itself."
            )
    return paths


def _is_plain_address(path: str, place: str) -> bool:
    """Whether a list may name an address: one in a bucket, or on the file system of the list.

    The list may come from a stranger, and fsspec's other addresses and chains run other programs.
    """
    schemes = {f"{place.partition('://')[0]}://"} if is_remote(place) else set()
    return "::" not in path and path.startswith((*_LISTED_SCHEMES, *schemes))

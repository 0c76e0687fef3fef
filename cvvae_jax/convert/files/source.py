"""Descriptions of weight files, and the checks that all their readers make."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cvvae_jax.errors import UserError

JSON_LIMIT = 100_000_000
"""Bytes of JSON that are parsed at most; what safetensors allows its headers."""
_MOST_TENSORS = 100_000  # of a file; no file with a known model has a tenth of them
_LFS = b"version https://git-lfs"


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A tensor as its file describes it."""

    shape: tuple[int, ...]
    """Shape in the file, in PyTorch's axis order."""
    dtype: np.dtype | None
    """Type in the file; those that numpy lacks are of `ml_dtypes`."""
    fault: str | None = None
    """Why the tensor can't be read, in a sentence; then shape and type say nothing."""


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """One file with tensors."""

    path: Path
    """The file."""
    tensors: dict[str, TensorInfo]
    """All its tensors by name."""
    metadata: dict[str, str]
    """Safetensors' own metadata; empty for other files."""
    read: Callable[[list[str]], Iterator[tuple[str, np.ndarray]]]
    """The named tensors once each, in the order of the file."""


@dataclasses.dataclass(frozen=True)
class Stamp:
    """Tells whether a file is still the one that was checked."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, file: int | Path) -> "Stamp":
        """The stamp of a path or of an open file's descriptor."""
        status = os.stat(file)
        return cls(status.st_size, status.st_mtime_ns)

    def check(self, path: Path, file: int | Path) -> None:
        """Raises UserError where `file`, opened from `path`, has another stamp."""
        if Stamp.of(file) != self:
            raise UserError(f"{path} changed while its tensors were being read.")


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Failures of the disk and missing permissions become a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def check_not_lfs(path: Path, head: bytes) -> None:
    """Raises UserError where a file that begins with `head` only stands for the real one."""
    if head.startswith(_LFS):
        raise UserError(
            f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder."
        )


def check_count(path: Path, count: int) -> None:
    """Raises UserError where a file has so many tensors that going through them takes long."""
    if count > _MOST_TENSORS:
        raise UserError(
            f"{path} holds {count:,} tensors; files with {_MOST_TENSORS:,} at most are read."
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: the file cannot be read or holds anything but one object without duplicates.
    """
    with readable(path), path.open("rb") as file:
        text = file.read(JSON_LIMIT + 1)
    check_not_lfs(path, text)
    if len(text) > JSON_LIMIT:
        raise UserError(f"{path} is larger than {JSON_LIMIT // 10**6} MB; no JSON file here is.")
    return parse_object(text, str(path))


def parse_object(text: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `text`; `what` says in messages where it stands.

    Raises:
        UserError: it isn't JSON, isn't an object, or names a thing twice.
    """
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not valid JSON: {error}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{what} must be a JSON object, not a {type(found).__name__}.")
    return found


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON parsers take the last of two values silently, and not all of them the same one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it names {twice!r} twice")
    return found

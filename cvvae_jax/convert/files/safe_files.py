"""Safetensors files, a tensor at a time."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from cvvae_jax.config import ConfigError
from cvvae_jax.convert.files.source import (
    JSON_LIMIT,
    Source,
    Stamp,
    TensorInfo,
    parse_object,
    readable,
)

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
"""The types that are read, by safetensors' names for them."""


@dataclasses.dataclass(frozen=True)
class _Place:
    start: int
    info: TensorInfo


def open_safetensors(path: Path) -> Source:
    """Checks a safetensors file by its header; no tensor is read.

    Raises:
        ConfigError: the file is damaged, or a tensor has a type that isn't read.
    """
    with readable(path), path.open("rb") as file:
        stamp = Stamp.of(file.fileno())
        header, start = _header(path, file, size=stamp.size)
        _check(path, header, data_size=stamp.size - start)
    metadata = header.pop("__metadata__", None) or {}
    places = {
        name: _Place(start + entry["data_offsets"][0], _info(path, name, entry))
        for name, entry in header.items()
    }
    infos = {name: place.info for name, place in places.items()}
    return Source(path, infos, metadata, functools.partial(_read, path, stamp, places))


def _header(path: Path, file: BinaryIO, *, size: int) -> tuple[dict[str, Any], int]:
    """The header as JSON, and where the data begin.

    Safetensors parses it too, but takes the last of two tensors of one name without a word.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, JSON_LIMIT):
        raise ConfigError(
            f"{path} is no safetensors file, or cut short: by its own account its header has "
            f"{length:,} bytes ({JSON_LIMIT:,} at most are read), and the whole file has {size:,}."
        )
    return parse_object(file.read(length), f"the header of {path}"), 8 + length


def _check(path: Path, header: dict[str, Any], *, data_size: int) -> None:
    """All that safetensors itself checks: types, sizes, offsets without overlaps and holes."""
    try:
        # Opening maps the file for a moment, but touches only the header.
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        expected = _data_size(header)
        if expected > data_size:
            raise ConfigError(
                f"{path} is cut short: it has {data_size:,} of {expected:,} bytes of tensors; "
                "download it again."
            ) from error
        raise ConfigError(f"{path} is not a sound safetensors file: {error}.") from error


def _data_size(header: dict[str, Any]) -> int:
    """Bytes of tensors by a header that may be wrong in any way; 0 where it doesn't say."""
    try:
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        return max(int(entry["data_offsets"][1]) for entry in entries)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError):
        return 0


def _info(path: Path, name: str, entry: dict[str, Any]) -> TensorInfo:
    if entry["dtype"] not in DTYPES:
        raise ConfigError(
            f"{path} holds {name} as {entry['dtype']}; accepted are {', '.join(DTYPES)}."
        )
    info = TensorInfo(tuple(entry["shape"]), DTYPES[entry["dtype"]])
    try:
        np.broadcast_to(np.empty((), info.dtype), info.shape)
    except ValueError as error:
        raise ConfigError(f"{path} holds {name} with an impossible shape: {error}.") from error
    return info


def _read(
    path: Path, stamp: Stamp, places: dict[str, _Place], names: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    # Plain reads, as pages of a mapping count as memory of the process; and safetensors' own give
    # no bfloat16 in numpy.
    with readable(path), path.open("rb") as file:
        for name in sorted(names, key=lambda name: places[name].start):
            # No variable holds the array, so that the consumer alone decides how long it lives.
            yield name, _read_tensor(path, stamp, file, places[name])


def _read_tensor(path: Path, stamp: Stamp, file: BinaryIO, place: _Place) -> np.ndarray:
    array = np.empty(place.info.shape, place.info.dtype)
    file.seek(place.start)
    count = file.readinto(array.reshape(-1).view(np.uint8))
    stamp.check(path, file.fileno())
    if count != array.nbytes:
        raise ConfigError(f"{path} ended in the middle of a tensor.")
    return array

"""Safetensors files, a tensor at a time."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from cvvae_jax.convert.files.source import (
    JSON_LIMIT,
    Stamp,
    TensorInfo,
    WeightFile,
    check_count,
    parse_object,
    readable,
)
from cvvae_jax.errors import UserError

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
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
_MOST_AXES = 32


@dataclasses.dataclass(frozen=True)
class _Offsets:
    start: int
    end: int


def open_safetensors(path: Path) -> WeightFile:
    """Checks a safetensors file by its header; no tensor is read.

    Tensors that can't be read, of a type or a shape that isn't known, have a `fault`; they are no
    reason to refuse others.

    Raises:
        UserError: the file is damaged.
    """
    with readable(path), path.open("rb") as file:
        stamp = Stamp.of(file.fileno())
        header, start = _header(path, file, size=stamp.size)
    metadata = header.pop("__metadata__", None)
    check_count(path, len(header))
    metadata = metadata if isinstance(metadata, dict) else {}
    offsets = {name: _offsets(entry) for name, entry in header.items()}
    faults = _faults(path, header, offsets, data_size=stamp.size - start)
    infos = {name: _info(entry, faults.get(name)) for name, entry in header.items()}
    starts = {name: start + found.start for name, found in offsets.items() if found}
    return WeightFile(
        path,
        infos,
        {key: value for key, value in metadata.items() if isinstance(value, str)},
        functools.partial(_read, path, stamp, infos, starts),
    )


def _header(path: Path, file: BinaryIO, *, size: int) -> tuple[dict[str, Any], int]:
    """The header as JSON, and where the data begin.

    The library would take the last of two tensors of one name without a word, and refuse a whole
    file for a tensor of a type that it doesn't know yet.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, JSON_LIMIT):
        raise UserError(
            f"{path} is no safetensors file, or cut short: by its own account its header has "
            f"{length:,} bytes ({JSON_LIMIT:,} at most are read), and the whole file has {size:,}."
        )
    return parse_object(file.read(length), f"the header of {path}"), 8 + length


def _offsets(entry: Any) -> _Offsets | None:
    """The offsets of a tensor in the data; None where the entry states none."""
    match entry:
        case {"data_offsets": [int(start), int(end)]} if 0 <= start <= end:
            return _Offsets(start, end)
    return None


def _faults(
    path: Path, header: dict[str, Any], offsets: dict[str, _Offsets | None], *, data_size: int
) -> dict[str, str]:
    """Why single tensors can't be read, by their names.

    Raises:
        UserError: the file is cut short, or has bytes that belong to no tensor.
    """
    placed = sorted(
        ((found, name) for name, found in offsets.items() if found),
        key=lambda found: (found[0].start, found[0].end),
    )
    expected = max((found.end for found, _ in placed), default=0)
    if expected > data_size:
        raise UserError(
            f"{path} is cut short: it has {data_size:,} of {expected:,} bytes of tensors; "
            "download it again."
        )
    faults = {name: fault for name in header if (fault := _fault(path, name, header[name]))}
    end, last = 0, None
    for found, name in placed:
        if found.start < end:
            for one in (name, last):
                faults[one] = _unsound(path, f"{name} and {last} have offsets that overlap")
        elif found.start > end and len(placed) == len(offsets):
            raise UserError(_unsound(path, f"no tensor's offsets cover the bytes before {name}"))
        if found.end > end:
            end, last = found.end, name
    if end < data_size and len(placed) == len(offsets):
        raise UserError(_unsound(path, f"{data_size - end:,} bytes belong to no tensor"))
    return faults


def _fault(path: Path, name: str, entry: Any) -> str | None:
    """Why a tensor can't be read by what its entry says."""
    found = _offsets(entry)
    if found is None:
        return _unsound(path, f"{name} has no valid offsets ({_short(entry)})")
    shape, dtype = entry.get("shape"), entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        return f"{path} holds {name} as {dtype}; accepted are {', '.join(DTYPES)}."
    counts = isinstance(shape, list) and all(type(axis) is int and axis >= 0 for axis in shape)
    if counts and len(shape) > _MOST_AXES:
        return f"{path} holds {name} with an impossible shape: it has {len(shape)} axes."
    if not counts or math.prod(shape) * DTYPES[dtype].itemsize != found.end - found.start:
        wrong = "an invalid shape, data type or offsets"
        return _unsound(path, f"{name} has {wrong} ({_short(entry)})")
    try:
        np.broadcast_to(np.empty((), DTYPES[dtype]), shape)
    except ValueError as error:
        return f"{path} holds {name} with an impossible shape: {error}."
    return None


def _unsound(path: Path, why: str) -> str:
    return f"{path} is not a sound safetensors file: {why}."


def _short(entry: Any) -> str:
    text = repr(entry)
    return text if len(text) <= 100 else f"{text[:100]}.."


def _info(entry: Any, fault: str | None) -> TensorInfo:
    if fault:
        return TensorInfo((), None, fault)
    return TensorInfo(tuple(entry["shape"]), DTYPES[entry["dtype"]])


def _read(
    path: Path,
    stamp: Stamp,
    infos: dict[str, TensorInfo],
    starts: dict[str, int],
    names: list[str],
) -> Iterator[tuple[str, np.ndarray]]:
    # Plain reads, as pages of a mapping count as memory of the process; and safetensors' own give
    # no bfloat16 in numpy.
    with readable(path), path.open("rb") as file:
        for name in sorted(names, key=starts.__getitem__):
            # No variable holds the array, so that the consumer alone decides how long it lives.
            yield name, _read_tensor(path, stamp, file, infos[name], starts[name])


def _read_tensor(
    path: Path, stamp: Stamp, file: BinaryIO, info: TensorInfo, start: int
) -> np.ndarray:
    array = np.empty(info.shape, info.dtype)
    file.seek(start)
    count = file.readinto(array.reshape(-1).view(np.uint8))
    stamp.check(path, file.fileno())
    if count != array.nbytes:
        raise UserError(f"{path} ended in the middle of a tensor.")
    return array

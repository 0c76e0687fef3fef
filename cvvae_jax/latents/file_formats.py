"""Reads .npz and .safetensors files with latents, which may come from other programs or be damaged.

A header is checked before anything of the size that it states is read.
"""

import contextlib
import dataclasses
import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import safe_open

from cvvae_jax.config.reading import parse
from cvvae_jax.errors import UserError

# Data types that are read: safetensors' names and NumPy's.
_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
# The longest metadata are the times of a variable frame rate, some MB per hour of video.
_MAX_METADATA_BYTES = 64 * 2**20
_MAX_MEMBERS = 1000  # arrays of an npz file
# Limits against zip bombs: a member of an npz file may have this size, or this many times its
# packed size. Latents can hardly be compressed.
_ALWAYS_UNPACKED, _MAX_RATIO = 64 * 2**20, 100
_NPY_HEADER = 12 + 10_000  # bytes of the longest header that NumPy reads
CHECKSUM = "crc32"
"""Name of the checksum in the metadata of safetensors files. It covers the latents and all other
metadata; npz files have checksums of their own."""


@dataclasses.dataclass(frozen=True)
class Header:
    """The shape of the latents in a file, and its metadata."""

    shape: tuple[int, ...]
    """Shape (n, y, x, z) of the latents."""
    texts: dict[str, str]
    """Metadata as texts by name; empty for npz files of other programs."""


def read_header(path: Path) -> Header:
    """Read the header of a file whose name ends in .npz or .safetensors.

    Raises:
        UserError: the file holds no array `latents` of four axes and a floating-point type, or is
            damaged.
    """
    with _as_user_errors(path):
        return _npz_header(path) if _is_npz(path) else _safetensors_header(path)


def read_parts(path: Path, header: Header, frames: int) -> Iterator[Float[np.ndarray, "n y x z"]]:
    """Yield the latents in order as float32, `frames` latent frames at a time.

    Raises:
        UserError: the file is damaged, or changed after its header was read. The last part is not
            yielded then.
    """
    with _as_user_errors(path):
        if read_header(path) != header:
            raise UserError(f"{path} changed while it was being read.")
        yield from (_npz_parts if _is_npz(path) else _safetensors_parts)(path, header, frames)


class Checksum:
    """The CRC-32 of the latents and the metadata of a safetensors file."""

    def __init__(self):
        self._value = 0

    def add(self, numbers: Float[np.ndarray, "n y x z"]) -> None:
        """Add the next latents, in order."""
        self._value = zlib.crc32(np.ascontiguousarray(numbers, "<f4").data, self._value)

    def of(self, shape: tuple[int, ...], texts: dict[str, str]) -> str:
        """The checksum as hexadecimal text, once all latents have been added.

        Args:
            shape: shape of the latents.
            texts: metadata of the file; a checksum among them is left out.
        """
        others = {name: text for name, text in texts.items() if name != CHECKSUM}
        metadata = json.dumps([list(shape), others], sort_keys=True).encode()
        return f"{zlib.crc32(metadata, self._value):08x}"


@contextlib.contextmanager
def _as_user_errors(path: Path) -> Iterator[None]:
    """Turn every error of the libraries that read a damaged file into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # headers like (((( also raise RecursionError and MemoryError
        raise UserError(
            f"{path} holds no latents that can be read: it needs an array `latents` (n, y, x, z) "
            f"({type(error).__name__}: {error})."
        ) from error


def _is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def _check(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    if len(shape) != 4 or min(shape) < 1:
        raise UserError(f"{path}: latents must have a shape (n, y, x, z), not {shape}.")
    if dtype not in _DTYPES.values():
        raise UserError(f"{path}: latents must be {', '.join(_DTYPES.values())}, not {dtype}.")


def _safetensors_header(path: Path) -> Header:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _MAX_METADATA_BYTES:
        raise UserError(
            f"{path} holds no latents that can be read: its header would have {length:,} bytes; at "
            f"most {_MAX_METADATA_BYTES:,} are read."
        )
    with safe_open(path, framework="numpy") as file:
        latents = file.get_slice("latents")
        dtype = _DTYPES.get(latents.get_dtype(), latents.get_dtype())
        shape = tuple(latents.get_shape())
        texts = file.metadata() or {}
    _check(path, shape, dtype)
    return Header(shape, texts)


def _safetensors_parts(path: Path, header: Header, frames: int) -> Iterator[np.ndarray]:
    count, checksum = header.shape[0], Checksum()
    with safe_open(path, framework="numpy") as file:
        latents = file.get_slice("latents")
        for start in range(0, count, frames):
            part = np.asarray(latents[start : min(start + frames, count)], np.float32)
            checksum.add(part)
            if start + frames >= count:
                _compare(path, header, checksum)
            yield part


def _compare(path: Path, header: Header, checksum: Checksum) -> None:
    stored = header.texts.get(CHECKSUM)
    if stored is not None and stored != checksum.of(header.shape, header.texts):
        raise UserError(
            f"{path} is damaged: its contents don't match its checksum. A program that changes the "
            f"file must remove `{CHECKSUM}` from its metadata."
        )


def _npz_header(path: Path) -> Header:
    with zipfile.ZipFile(path) as archive:
        _check_members(path, archive)
        array = _Array.of(path, archive, "latents.npy")
        _check(path, array.shape, array.dtype.name)
        texts = _npz_texts(path, archive) if "metadata.npy" in archive.namelist() else {}
    return Header(array.shape, texts)


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    """Check the names of all arrays in the archive.

    A damaged name in its directory would look like a missing array. Opening a member compares the
    directory's name with the one in front of the member.
    """
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS:
        raise UserError(f"{path} holds {len(members):,} arrays; no file with latents does.")
    for member in members:
        archive.open(member).close()


def _npz_texts(path: Path, archive: zipfile.ZipFile) -> dict[str, str]:
    size = archive.getinfo("metadata.npy").file_size
    if size > _MAX_METADATA_BYTES:
        raise UserError(
            f"{path}: its metadata would have {size:,} bytes; at most {_MAX_METADATA_BYTES:,} are "
            "read."
        )
    content = archive.read("metadata.npy")  # reads to the end, where the checksum is compared
    array = _Array.of(path, archive, "metadata.npy")
    if array.dtype.kind != "U" or array.shape != ():
        return {}  # another program wrote the file
    text = np.frombuffer(content[array.begin :], array.dtype)[0]
    texts = parse(str(text), f"{path}: its metadata")
    return texts if isinstance(texts, dict) else {}


def _npz_parts(path: Path, header: Header, frames: int) -> Iterator[np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        array = _Array.of(path, archive, "latents.npy")
        with archive.open(array.member) as member:
            member.read(array.begin)
            if array.fortran:
                whole = _numbers(member.read(), array.dtype).reshape(header.shape, order="F")
                yield from (whole[i : i + frames] for i in range(0, len(whole), frames))
                return
            for start in range(0, header.shape[0], frames):
                shape = (min(frames, header.shape[0] - start), *header.shape[1:])
                size = math.prod(shape) * array.dtype.itemsize
                # The zip file's checksum is compared when its end is read.
                last = start + frames >= header.shape[0]
                yield _numbers(member.read(-1 if last else size), array.dtype).reshape(shape)


def _numbers(data: bytes, dtype: np.dtype) -> np.ndarray:
    return np.frombuffer(data, dtype).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Array:
    """The header of an array in an npz file."""

    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    begin: int
    """Length of the header in bytes."""

    @classmethod
    def of(cls, path: Path, archive: zipfile.ZipFile, name: str) -> "_Array":
        """Read and check the header of a member of the archive.

        Raises:
            UserError: NumPy doesn't write such a member, or it cannot have the size that it states.
        """
        member = archive.getinfo(name)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{path}: {name} is compressed in a way that NumPy doesn't use.")
        packed = min(member.compress_size, os.path.getsize(path))
        if member.file_size > max(_ALWAYS_UNPACKED, _MAX_RATIO * packed):
            raise UserError(
                f"{path}: {name} would be {member.file_size:,} bytes, unpacked from {packed:,}; no "
                "latents are packed so well."
            )
        with archive.open(member) as opened:
            head = io.BytesIO(opened.read(_NPY_HEADER))
        version = np.lib.format.read_magic(head)
        one = version == (1, 0)
        # Only version 3 differs, in the encoding of field names, which latents don't have.
        read = np.lib.format.read_array_header_1_0 if one else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(head)
        size = head.tell() + math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=1) < 0 or size != member.file_size:
            raise UserError(
                f"{path}: {name} is {dtype} {shape} by its header, which makes {size:,} bytes, but "
                f"it has {member.file_size:,}."
            )
        return cls(member, shape, fortran, dtype, head.tell())

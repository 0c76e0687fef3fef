"""How latents lie in .npz and .safetensors files.

Headers are checked before anything of the size that they state is read.
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

# Types of numbers that are read, as safetensors and NumPy call them.
_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
# Bytes of what is said of latents: times of uneven frames are the longest, some MB an hour.
_MAX_METADATA_BYTES = 64 * 2**20
_MAX_MEMBERS = 1000  # of an npz file
# What its members are unpacked to at most: so many bytes, or so many times the packed ones. Numbers
# can hardly be packed at all.
_ALWAYS_UNPACKED, _MAX_RATIO = 64 * 2**20, 100
_NPY_HEADER = 12 + 10_000  # the longest one that NumPy reads
CHECKSUM = "crc32"
"""The word of safetensors files for the checksum of all other texts and the numbers; npz files have
their own."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    shape: tuple[int, ...]
    """Of the latents."""
    texts: dict[str, str]
    """What else it says; of another program's npz file nothing."""


def read_header(path: Path) -> Header:
    """The header of a file whose name ends in .npz or .safetensors.

    Raises:
        UserError: there are no latents in it, or not as they may be.
    """
    with _as_user_errors(path):
        return _npz_header(path) if _is_npz(path) else _safetensors_header(path)


def read_parts(path: Path, header: Header, frames: int) -> Iterator[Float[np.ndarray, "n y x z"]]:
    """The latents in order as float32, so many frames at a time.

    Raises:
        UserError: the file is damaged, or was changed since its header was read. Nothing of the
            last part has been given then.
    """
    with _as_user_errors(path):
        if read_header(path) != header:
            raise UserError(f"{path} changed while it was being read.")
        yield from (_npz_parts if _is_npz(path) else _safetensors_parts)(path, header, frames)


class Checksum:
    """CRC-32 of what a safetensors file says and holds, for its word `CHECKSUM`."""

    def __init__(self):
        self._value = 0

    def add(self, numbers: Float[np.ndarray, "n y x z"]) -> None:
        """Go on with latents, in their order."""
        self._value = zlib.crc32(np.ascontiguousarray(numbers, "<f4").data, self._value)

    def of(self, shape: tuple[int, ...], texts: dict[str, str]) -> str:
        """The word, of all latents with these texts, which may have it already."""
        others = {name: word for name, word in texts.items() if name != CHECKSUM}
        said = json.dumps([list(shape), others], sort_keys=True).encode()
        return f"{zlib.crc32(said, self._value):08x}"


@contextlib.contextmanager
def _as_user_errors(path: Path) -> Iterator[None]:
    """Turns whatever the readers of a damaged file raise into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # also RecursionError and MemoryError, of headers like ((((
        raise UserError(
            f"{path} holds no latents that can be read: an array `latents` (n, y, x, z) is wanted "
            f"({type(error).__name__}: {error})."
        ) from error


def _is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def _check(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    if len(shape) != 4 or min(shape) < 1:
        raise UserError(f"{path}: latents are (n, y, x, z), not {shape}.")
    if dtype not in _DTYPES.values():
        raise UserError(f"{path}: latents are {', '.join(_DTYPES.values())}, not {dtype}.")


def _safetensors_header(path: Path) -> Header:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _MAX_METADATA_BYTES:
        raise UserError(
            f"{path} holds no latents that can be read: its header would have {length:,} bytes; "
            f"{_MAX_METADATA_BYTES:,} are read at most."
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
    said = header.texts.get(CHECKSUM)
    if said is not None and said != checksum.of(header.shape, header.texts):
        raise UserError(
            f"{path} is damaged: it is not what was written, by its `{CHECKSUM}`. A program that "
            "changes it must leave out that word of the metadata."
        )


def _npz_header(path: Path) -> Header:
    with zipfile.ZipFile(path) as archive:
        _check_members(path, archive)
        array = _Array.of(path, archive, "latents.npy")
        _check(path, array.shape, array.dtype.name)
        texts = _npz_texts(path, archive) if "metadata.npy" in archive.namelist() else {}
    return Header(array.shape, texts)


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    """A name that was damaged in the list of the archive would look like an array that isn't there;
    opening compares it with the name before the array."""
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS:
        raise UserError(f"{path} holds {len(members):,} arrays; no file with latents does.")
    for member in members:
        archive.open(member).close()


def _npz_texts(path: Path, archive: zipfile.ZipFile) -> dict[str, str]:
    size = archive.getinfo("metadata.npy").file_size
    if size > _MAX_METADATA_BYTES:
        raise UserError(
            f"{path}: its metadata would have {size:,} bytes; {_MAX_METADATA_BYTES:,} are read at most."
        )
    content = archive.read("metadata.npy")  # whole, so that its checksum is compared
    array = _Array.of(path, archive, "metadata.npy")
    if array.dtype.dtype != "U" or array.shape != ():
        return {}  # another program's
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
                # Reading to the end is what compares the checksum of the zip file.
                last = start + frames >= header.shape[0]
                yield _numbers(member.read(-1 if last else size), array.dtype).reshape(shape)


def _numbers(data: bytes, dtype: np.dtype) -> np.ndarray:
    return np.frombuffer(data, dtype).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Array:
    """An array in an npz file, by its header."""

    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    begin: int
    """Bytes of the header."""

    @classmethod
    def of(cls, path: Path, archive: zipfile.ZipFile, name: str) -> "_Array":
        """Of a name in the archive.

        Raises:
            UserError: it is not what NumPy writes, or of a size that it can't have.
        """
        member = archive.getinfo(name)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{path}: {name} is packed in a way that NumPy doesn't use.")
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
        # Of version 3, which has names in UTF-8, a field has a name: there is none in latents.
        read = np.lib.format.read_array_header_1_0 if one else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(head)
        size = head.tell() + math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=1) < 0 or size != member.file_size:
            raise UserError(
                f"{path}: {name} is {dtype} {shape} by its header, {size:,} bytes with it, and has "
                f"{member.file_size:,}."
            )
        return cls(member, shape, fortran, dtype, head.tell())

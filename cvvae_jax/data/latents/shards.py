"""Shard files of both formats: the same records give the same bytes."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from array_record.python import array_record_module

from cvvae_jax.data.latents.entry import Entry, members

Format = Literal["array_record", "webdataset"]

_SUFFIXES = {"array_record": "array_record", "webdataset": "tar"}
# Each record is read alone; rounding noise in floats leaves nothing to compress.
_WRITER_OPTIONS = "group_size:1,uncompressed"


def shard_name(number: int, count: int, format: Format) -> str:
    """The file of a shard."""
    return f"latents-{number:06d}-of-{count:06d}.{_SUFFIXES[format]}"


def write_shard(
    path: Path, records: Iterable[tuple[Entry, bytes]], format: Format
) -> list[tuple[int, int]]:
    """Write packed records into a shard file.

    Returns:
        Of each record its place in the file, which is its number in an ArrayRecord and its first
        byte in a tar, and its size in bytes.
    """
    match format:
        case "array_record":
            return _write_array_record(path, records)
        case "webdataset":
            return _write_tar(path, records)


def _write_array_record(
    path: Path, records: Iterable[tuple[Entry, bytes]]
) -> list[tuple[int, int]]:
    places = []
    writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    try:
        for number, (_, data) in enumerate(records):
            writer.write(data)
            places.append((number, len(data)))
    finally:
        writer.close()
    return places


def _write_tar(path: Path, records: Iterable[tuple[Entry, bytes]]) -> list[tuple[int, int]]:
    places = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for entry, data in records:
            begin = tar.offset
            for name, content in members(entry, data):
                # Neither the time nor the user: the same bytes, whoever writes them.
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            places.append((begin, tar.offset - begin))
    return places

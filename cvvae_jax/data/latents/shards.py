"""Shard files of both formats: the same records give the same bytes."""

import dataclasses
import io
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from array_record.python import array_record_module

from cvvae_jax.data.checksums import of_record
from cvvae_jax.data.latents.entry import Entry, members

Format = Literal["array_record", "webdataset"]

SHARD = re.compile(r"latents-[0-9]+-of-[0-9]+\.(array_record|tar)")
"""The names of shards."""

_SUFFIXES = {"array_record": "array_record", "webdataset": "tar"}
# Each record is read alone; rounding noise in floats leaves nothing to compress.
_WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a record lies, as the index says it."""

    place: int
    """Its number in an ArrayRecord; its first byte in a tar."""
    bytes: int
    """Its size."""
    crc32: int
    """Checksum of these bytes."""


def shard_name(number: int, count: int, format: Format) -> str:
    """The file of a shard."""
    return f"latents-{number:06d}-of-{count:06d}.{_SUFFIXES[format]}"


def write_shard(path: Path, records: Iterable[tuple[Entry, bytes]], format: Format) -> list[Place]:
    """Write packed records into a shard file; where each of them lies."""
    match format:
        case "array_record":
            return _write_array_record(path, records)
        case "webdataset":
            return _write_tar(path, records)


def _write_array_record(path: Path, records: Iterable[tuple[Entry, bytes]]) -> list[Place]:
    places = []
    writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    try:
        for number, (_, data) in enumerate(records):
            writer.write(data)
            places.append(Place(number, len(data), of_record(data)))
    finally:
        writer.close()
    return places


def _write_tar(path: Path, records: Iterable[tuple[Entry, bytes]]) -> list[Place]:
    places, begin = [], 0
    with path.open("wb") as shard:
        for entry, data in records:
            sample = _sample(entry, data)
            shard.write(sample)
            places.append(Place(begin, len(sample), of_record(sample)))
            begin += len(sample)
        # What ends a tar: two empty blocks, and more of them up to a whole record.
        end = begin + 2 * tarfile.BLOCKSIZE
        shard.write(bytes(-(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - begin))
    return places


def _sample(entry: Entry, data: bytes) -> bytes:
    """The members of a sample, one behind the other, without an end of the tar."""
    sample = io.BytesIO()
    for name, content in members(entry, data):
        # Neither the time nor the user: the same bytes, whoever writes them.
        info = tarfile.TarInfo(name)
        info.size = len(content)
        sample.write(info.tobuf(tarfile.USTAR_FORMAT))
        sample.write(content)
        sample.write(bytes(-len(content) % tarfile.BLOCKSIZE))
    return sample.getvalue()

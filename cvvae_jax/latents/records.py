"""Records of a data set of latents as bytes, and the shard files that hold them.

In ArrayRecord shards it is a safetensors file. That says itself what is in it, and is read without
copies and without a library of ours, from other languages, too; a tf.train.Example would hold the
arrays as bytes of unstated type and shape. What is said of the clip is JSON, under one name of the
file's metadata, since the order of several is not always the same. In tar shards it is a sample of
WebDataset: KEY.json, and KEY.NAME.npy for every array.
"""

import dataclasses
import io
import json
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from array_record.python import array_record_module
from safetensors.numpy import load, save

from cvvae_jax.resumable.checksums import record_checksum
from cvvae_jax.video_io.media_types import MediaKind

_METADATA = "record"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is said of a record."""

    name: str
    """Of the file in its source."""
    kind: MediaKind
    item: int
    """Number of the file in the source: videos first, then images."""
    clip: int
    """Number of the clip in its file."""
    start: int
    """Number of the clip's first frame in its file."""
    frames: int
    """Of the clip; what decoding gives beyond them is padding."""
    fps: float
    """Frames per second, on average; 1 for an image."""
    seconds: list[float]
    """When each frame of the clip is shown, from its first one on."""
    pixel_aspect: float
    """Width of a pixel over its height, as the file is shown."""
    height: int
    """In pixels, of the frames that were encoded; what decoding gives beyond it is padding."""
    width: int
    """Likewise."""
    original_height: int
    """In pixels, of the upright file."""
    original_width: int
    resized_height: int
    """In pixels, before the crop."""
    resized_width: int
    crop_top: int
    """Row of the resized frame that the crop begins at."""
    crop_left: int
    """Column of the resized frame that the crop begins at."""
    weights: str
    """SHA-256 of the model's files, as `inspect --sha256` shows it."""
    scaling_factor: float
    """See `config.latent_scale`, like the three after it."""
    shift_factor: float
    latents_mean: tuple[float, ...] | None = None
    """Lists become arrays when they are read."""
    latents_std: tuple[float, ...] | None = None

    @property
    def key(self) -> str:
        """The name of a sample of WebDataset, which must have no dot."""
        return f"{self.item:09d}-{self.clip:06d}"


def pack(entry: Entry, arrays: dict[str, np.ndarray]) -> bytes:
    """A record as a safetensors file; the same input gives the same bytes."""
    return save(arrays, metadata={_METADATA: _json(entry)})


def unpack(data: bytes) -> dict[str, Any]:
    """The arrays of a record and the fields of its `Entry`, by name."""
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    return load(data) | _from_json(metadata[_METADATA])


def members(entry: Entry, data: bytes) -> list[tuple[str, bytes]]:
    """The files of a sample of WebDataset, their names and contents, from a packed record."""
    files = [(f"{entry.key}.json", _json(entry).encode())]
    for name, array in load(data).items():
        file = io.BytesIO()
        np.lib.format.write_array(file, array, allow_pickle=False)
        files.append((f"{entry.key}.{name}.npy", file.getvalue()))
    return sorted(files)


def read_members(data: bytes) -> dict[str, Any]:
    """What `unpack` gives, of the part of a tar that holds one sample."""
    found: dict[str, Any] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            content = tar.extractfile(member).read()
            suffix = member.name.partition(".")[2]
            if suffix == "json":
                found |= _from_json(content)
            else:
                name = suffix.removesuffix(".npy")
                found[name] = np.load(io.BytesIO(content), allow_pickle=False)
    return found


def _json(entry: Entry) -> str:
    """Without what is not there: batches are made of numbers and texts, and not of None."""
    return json.dumps({name: value for name, value in vars(entry).items() if value is not None})


def _from_json(text: str | bytes) -> dict[str, Any]:
    return {
        name: np.array(value) if isinstance(value, list) else value
        for name, value in json.loads(text).items()
    }


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
            places.append(Place(number, len(data), record_checksum(data)))
    finally:
        writer.close()
    return places


def _write_tar(path: Path, records: Iterable[tuple[Entry, bytes]]) -> list[Place]:
    places, begin = [], 0
    with path.open("wb") as shard:
        for entry, data in records:
            sample = _sample(entry, data)
            shard.write(sample)
            places.append(Place(begin, len(sample), record_checksum(sample)))
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

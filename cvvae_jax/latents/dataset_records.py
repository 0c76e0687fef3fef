"""Records of a data set of latents as bytes, and the shard files that hold them.

A record of an ArrayRecord shard is a safetensors file. This format states the types and shapes of
its arrays, is read without copies, and needs no library of ours, in any language; a
tf.train.Example would hold the arrays as bytes of unknown type and shape. The metadata of the clip
are JSON under a single name of the file's metadata, since the order of several names may vary.

A record of a tar shard is a sample of WebDataset: KEY.json, and KEY.NAME.npy for every array.
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
class RecordMetadata:
    """What is stored with the latents of a clip. Lists and tuples are read as NumPy arrays."""

    name: str
    """Name of the file in its source."""
    kind: MediaKind
    """Whether the file is a video or an image."""
    item: int
    """Number of the file in the source: videos come first, then images."""
    clip: int
    """Number of the clip in its file."""
    start: int
    """Number of the clip's first frame in its file."""
    frames: int
    """Frames of the clip; further frames that decoding gives are padding."""
    fps: float
    """Frames per second, on average; 1 for an image."""
    seconds: list[float]
    """Time of each frame in seconds after the clip's first frame."""
    pixel_aspect: float
    """Width of a pixel over its height."""
    height: int
    """Height of the encoded frames in pixels; further rows that decoding gives are padding."""
    width: int
    """Width of the encoded frames in pixels; further columns that decoding gives are padding."""
    original_height: int
    """Height of the upright file in pixels."""
    original_width: int
    """Width of the upright file in pixels."""
    resized_height: int
    """Height in pixels after resizing, before the crop."""
    resized_width: int
    """Width in pixels after resizing, before the crop."""
    crop_top: int
    """Row of the resized frame where the crop begins."""
    crop_left: int
    """Column of the resized frame where the crop begins."""
    weights: str
    """SHA-256 of the model's files, as `inspect --sha256` shows it."""
    scaling_factor: float
    """Scale of the model's latents, as `config.latent_scale` explains it; so are the next three."""
    shift_factor: float
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None

    @property
    def key(self) -> str:
        """The key of a WebDataset sample, which must not have a dot."""
        return f"{self.item:09d}-{self.clip:06d}"


def pack(metadata: RecordMetadata, arrays: dict[str, np.ndarray]) -> bytes:
    """Pack a record into a safetensors file; equal input gives equal bytes."""
    return save(arrays, metadata={_METADATA: _json(metadata)})


def unpack(data: bytes) -> dict[str, Any]:
    """Unpack a safetensors record to its arrays and the fields of its `RecordMetadata`, by name."""
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    return load(data) | _from_json(metadata[_METADATA])


def members(metadata: RecordMetadata, data: bytes) -> list[tuple[str, bytes]]:
    """Convert a packed record to the files of a WebDataset sample: names and contents."""
    files = [(f"{metadata.key}.json", _json(metadata).encode())]
    for name, array in load(data).items():
        file = io.BytesIO()
        np.lib.format.write_array(file, array, allow_pickle=False)
        files.append((f"{metadata.key}.{name}.npy", file.getvalue()))
    return sorted(files)


def read_members(data: bytes) -> dict[str, Any]:
    """Unpack the part of a tar that holds one sample, to the same dictionary as `unpack`."""
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


def _json(metadata: RecordMetadata) -> str:
    """Write metadata as JSON. Fields that are None are left out, since batches cannot hold None."""
    return json.dumps({name: value for name, value in vars(metadata).items() if value is not None})


def _from_json(text: str | bytes) -> dict[str, Any]:
    return {
        name: np.array(value) if isinstance(value, list) else value
        for name, value in json.loads(text).items()
    }


Format = Literal["array_record", "webdataset"]

SHARD = re.compile(r"latents-[0-9]+-of-[0-9]+\.(array_record|tar)")
"""Pattern of the file names of shards."""

_SUFFIXES = {"array_record": "array_record", "webdataset": "tar"}
# Records are read one by one, and the noise in floats leaves nothing to compress.
_WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class RecordPlace:
    """Where a record lies in its shard, as the index states it."""

    place: int
    """Number of the record in an ArrayRecord; its first byte in a tar."""
    bytes: int
    """Size of the record."""
    crc32: int
    """Checksum of the record's bytes."""


def shard_name(number: int, count: int, format: Format) -> str:
    """File name of a shard; `number` is counted from 0 to `count` - 1."""
    return f"latents-{number:06d}-of-{count:06d}.{_SUFFIXES[format]}"


def write_shard(
    path: Path, records: Iterable[tuple[RecordMetadata, bytes]], format: Format
) -> list[RecordPlace]:
    """Write packed records into a shard file, and return the place of each of them."""
    match format:
        case "array_record":
            return _write_array_record(path, records)
        case "webdataset":
            return _write_tar(path, records)


def _write_array_record(
    path: Path, records: Iterable[tuple[RecordMetadata, bytes]]
) -> list[RecordPlace]:
    places = []
    writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    try:
        for number, (_, data) in enumerate(records):
            writer.write(data)
            places.append(RecordPlace(number, len(data), record_checksum(data)))
    finally:
        writer.close()
    return places


def _write_tar(path: Path, records: Iterable[tuple[RecordMetadata, bytes]]) -> list[RecordPlace]:
    places, begin = [], 0
    with path.open("wb") as shard:
        for metadata, data in records:
            sample = _sample(metadata, data)
            shard.write(sample)
            places.append(RecordPlace(begin, len(sample), record_checksum(sample)))
            begin += len(sample)
        # A tar ends with two empty blocks, and is filled up to whole tar records.
        end = begin + 2 * tarfile.BLOCKSIZE
        shard.write(bytes(-(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - begin))
    return places


def _sample(metadata: RecordMetadata, data: bytes) -> bytes:
    """The members of a sample as part of a tar, without the blocks that end a tar."""
    sample = io.BytesIO()
    for name, content in members(metadata, data):
        # Time and user are left out, so that equal records have equal bytes.
        info = tarfile.TarInfo(name)
        info.size = len(content)
        sample.write(info.tobuf(tarfile.USTAR_FORMAT))
        sample.write(content)
        sample.write(bytes(-len(content) % tarfile.BLOCKSIZE))
    return sample.getvalue()

"""A record: the latents of a clip with all that is known of them, as bytes.

In ArrayRecord shards it is a safetensors file. That says itself what is in it, and is read without
copies and without a library of ours, from other languages, too; a tf.train.Example would hold the
arrays as bytes of unstated type and shape. What is said of the clip is JSON, under one name of the
file's metadata, since the order of several is not always the same. In tar shards it is a sample of
WebDataset: KEY.json, and KEY.NAME.npy for every array.
"""

import dataclasses
import io
import json
import tarfile
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from cvvae_jax.data.media import Kind

_METADATA = "record"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is said of a record."""

    name: str
    """Of the file in its source."""
    kind: Kind
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

"""From a place of data to the clips that a protocol measures."""

import dataclasses
import functools
import hashlib
import json
import re
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cvvae_jax.data.prepare.shards import record_name
from cvvae_jax.data.records import numbers_at_rate
from cvvae_jax.data.sources import open_source
from cvvae_jax.errors import UserError, visible
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.resumable.files import file_sha256
from cvvae_jax.video_io.containers import resized
from cvvae_jax.video_io.frame_index import frame_times
from cvvae_jax.video_io.media_types import Blob, Media
from cvvae_jax.video_io.video import read_clip

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}
# The share of a clip's length that a video may lack, since containers round times.
_RATE_TOLERANCE = 0.01
# Bytes of the longest clip; what is made of it while it is measured takes some 50 times as many.
_LARGEST_CLIP = 2**30


@dataclasses.dataclass(frozen=True)
class ClipInfo:
    """A clip's entry in results.json."""

    name: str
    """The file's path, relative to the place."""
    sha256: str
    """Hash of the file, or of the decoded frames where there is no file."""
    start: int
    """Number of the clip's first frame in the file."""
    frames: int
    """Number of frames of the clip."""
    fps: float
    """Frames per second of the clip; 1 for an image."""
    height: int
    """Height of the clip, in pixels."""
    width: int
    """Width of the clip, in pixels."""


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """Frames to measure on."""

    number: int
    """Number of the file in its place."""
    info: ClipInfo
    video: UInt8[np.ndarray, "t h w 3"]


class Clips:
    """The clips of a place, one a file, by number; reading one may fail."""

    def __init__(self, place: str, protocol: Protocol):
        """Find the files.

        Raises:
            UserError: there is no such place, or no file of the protocol's kind in it.
        """
        self._protocol = protocol
        # Where the place is a pattern, names are relative to the folder in front of it.
        self._folder = re.split(r"/[^/]*[*?[]", place)[0]
        self._source = open_source(place, protocol.media)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, number: int) -> Clip:
        """Read a clip.

        Raises:
            UserError: its file cannot be decoded, or is too short.
        """
        media, protocol = self._source[number], self._protocol
        times = frame_times(media)
        if len(times) > 1 and times[-1] <= times[0]:
            raise UserError(f"{media} shows all its frames at one time.")
        numbers = _numbers(times, protocol, self.name(number))
        _require_memory(media, numbers)
        frames = read_clip(media, numbers)
        video = np.stack([_shaped(frame, protocol) for frame in frames])
        info = ClipInfo(
            name=self.name(number),
            sha256=_sha256(media),
            start=int(numbers[0]),
            frames=len(video),
            fps=_rate(times[numbers]),
            height=video.shape[1],
            width=video.shape[2],
        )
        return Clip(number, info, video)

    def name(self, number: int) -> str:
        """The file's name within its place, as it can be written and shown."""
        return visible(record_name(self._folder, self._source.name(number)))

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of all names and their order, wherever the place itself lies."""
        names = [self.name(number) for number in range(len(self))]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _numbers(times: np.ndarray, protocol: Protocol, name: str) -> np.ndarray:
    """Which frames of a video are its clip."""
    count, position = len(times), {"first": 0.0, "middle": 0.5}[protocol.start]
    if protocol.fps is not None:
        own = (count - 1) / times[-1] if count > 1 and times[-1] > 0 else protocol.fps
        rate = min(protocol.fps, own)
        span = (protocol.frames - 1) / rate
        if count < protocol.frames or times[-1] < span * (1 - _RATE_TOLERANCE):
            raise UserError(
                f"{name} is too short: it lasts {times[-1]:.2f} s with {count} frames, and "
                f"{protocol.frames} at {rate:.4g} frames per second last {span:.2f} s."
            )
        return numbers_at_rate(times, protocol.frames, protocol.fps, position)
    stride = protocol.stride
    frames = protocol.frames or 1 + (count - 1) // stride
    spare = count - 1 - (frames - 1) * stride
    if spare < 0:
        raise UserError(
            f"{name} is too short: it has {count} frames, and {frames} at a stride of {stride} "
            f"take {1 + (frames - 1) * stride}."
        )
    return round(position * spare) + stride * np.arange(frames)


def _require_memory(media: Media, numbers: np.ndarray) -> None:
    """Refuses what would not fit into memory, before it is decoded."""
    size = len(numbers) * read_clip(media, numbers[:1]).nbytes
    if size > _LARGEST_CLIP:
        raise UserError(
            f"{media} has {size / 2**30:.1f} GiB of frames; a clip may have "
            f"{_LARGEST_CLIP / 2**30:.0f}: set frames in the protocol, or cut the video."
        )


def _rate(times: np.ndarray) -> float:
    """Frames per second, on average."""
    return float((len(times) - 1) / (times[-1] - times[0])) if len(times) > 1 else 1.0


def _shaped(frame: np.ndarray, protocol: Protocol) -> np.ndarray:
    """A frame, resized and cropped."""
    if protocol.size is None:
        return frame
    size = protocol.size
    height, width = resized(*frame.shape[:2], short_side=size)
    if (height, width) != frame.shape[:2]:
        image = Image.fromarray(np.ascontiguousarray(frame))
        frame = np.asarray(image.resize((width, height), _FILTERS[protocol.resize]))
    if protocol.crop == "none":
        return frame
    top, left = (height - size) // 2, (width - size) // 2
    return frame[top : top + size, left : left + size]


def _sha256(media: Media) -> str:
    match media:
        case Path():
            return file_sha256(media)
        case Blob():
            return hashlib.sha256(media.data).hexdigest()
        case _:
            return hashlib.sha256(np.ascontiguousarray(media.array)).hexdigest()

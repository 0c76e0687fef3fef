"""Reading and writing video and image files; clips, `VideoWriter` and `write_image` are here, too.

Frames are uint8 arrays (height, width, 3), RGB, upright: rotation metadata and EXIF orientation are
applied. Frame k is the k-th in presentation order. Non-square pixels are taken as they are stored,
interlaced frames aren't taken apart, and an alpha channel is dropped.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from cvvae_jax.config import ConfigError
from cvvae_jax.data.clip_reader import read_clip
from cvvae_jax.data.containers import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    WRITABLE_IMAGE_SUFFIXES,
    WRITABLE_VIDEO_SUFFIXES,
)
from cvvae_jax.data.decoding import open_video, to_rgb, upright_size
from cvvae_jax.data.display import STANDARD, Display
from cvvae_jax.data.frame_index import count_frames, frame_times, read_times
from cvvae_jax.data.images import is_image, read_image, write_image
from cvvae_jax.data.media import Blob, MediaFile
from cvvae_jax.data.times import Times
from cvvae_jax.data.video_writer import VideoWriter

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "WRITABLE_IMAGE_SUFFIXES",
    "WRITABLE_VIDEO_SUFFIXES",
    "Blob",
    "Display",
    "Times",
    "VideoInfo",
    "VideoWriter",
    "count_frames",
    "frame_times",
    "is_image",
    "probe",
    "read_clip",
    "read_frames",
    "read_image",
    "read_times",
    "write_image",
]


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a file says about itself."""

    path: Path | Blob
    """The file."""
    frames: int | None
    """Number of frames as the container states it; None where it does not."""
    fps: Fraction
    """Frames per second, on average; 1 for an image."""
    height: int
    """Height in pixels, of the upright frame."""
    width: int
    """Width in pixels, of the upright frame."""
    has_audio: bool
    """Whether there is an audio stream."""
    is_image: bool
    """Whether the file is a single image."""
    display: Display = STANDARD
    """What a player has to know beside the pixels."""


def probe(file: MediaFile) -> VideoInfo:
    """Size, rate and streams of a video or image file.

    Raises:
        ConfigError: there is no such file, or it is neither a video nor an image.
    """
    file = Path(file) if isinstance(file, str) else file
    if is_image(file):
        height, width, _ = read_image(file).shape
        return VideoInfo(file, 1, Fraction(1), height, width, has_audio=False, is_image=True)
    with open_video(file) as video:
        first = next(video.frames(threads="NONE"), None)
        if first is None:
            raise ConfigError(f"{file} holds no frame that can be decoded.")
        height, width = upright_size(first)
        if not video.rate:
            raise ConfigError(f"{file} does not state its frames per second.")
        return VideoInfo(
            file,
            video.stream.frames or None,
            video.rate,
            height,
            width,
            has_audio=bool(video.container.streams.audio),
            is_image=False,
            display=video.display(first),
        )


def read_frames(file: MediaFile, *, start: int = 0) -> Iterator[np.ndarray]:
    """The frames of a video, or the one of an image, from number `start` on, in constant memory.

    Yields:
        uint8 arrays (height, width, 3), all of one size.

    Raises:
        ConfigError: the file cannot be read, changes its frame size, or ends early; the frames that
            could be decoded have been yielded before.
    """
    if is_image(file):
        yield from [read_image(file)][start:]
        return
    with open_video(file) as video:
        for frame in itertools.islice(video.frames(), start, None):
            yield to_rgb(frame)

"""Cuts the videos and images of a data set into the clips that are encoded."""

import dataclasses
import itertools
from collections.abc import Generator, Iterator
from fractions import Fraction

import numpy as np

from cvvae_jax.errors import UserError
from cvvae_jax.latents.dataset_options import LatentsConfig
from cvvae_jax.video_io.containers import require_pixels, resized
from cvvae_jax.video_io.decoding import open_video
from cvvae_jax.video_io.display import STANDARD, Display
from cvvae_jax.video_io.frame_index import read_times
from cvvae_jax.video_io.images import read_image
from cvvae_jax.video_io.media_types import Frames, Media, MediaKind
from cvvae_jax.video_io.times import Times
from cvvae_jax.video_io.video import Frame, frame_size, probe, resized_frame

_IMAGE = Times(Fraction(1)), STANDARD


@dataclasses.dataclass(frozen=True)
class ClipLimits:
    """Which clips suit a model."""

    temporal_compression: int
    """Clips of 1 + k * `temporal_compression` frames need no padding."""
    smallest: int
    """Least number of pixels of the short side."""


@dataclasses.dataclass(frozen=True)
class CropBox:
    """How the frames of a file are resized and cropped; all numbers are pixels."""

    original: tuple[int, int]
    """Height and width of the file's upright frames."""
    resized: tuple[int, int]
    """Height and width after resizing, before the crop."""
    top: int
    """Row of the resized frame where the crop begins."""
    left: int
    """Column of the resized frame where the crop begins."""
    height: int
    """Height of the crop."""
    width: int
    """Width of the crop."""

    @classmethod
    def of(cls, original: tuple[int, int], size: int | None) -> "CropBox":
        """The square in the middle after the short side is resized to `size`; None: all of it."""
        if size is None:
            return cls(original, original, 0, 0, *original)
        height, width = resized(*original, cover=(size, size))
        return cls(original, (height, width), (height - size) // 2, (width - size) // 2, size, size)

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """Crop a resized frame."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetClip:
    """Frames of a file that become one record."""

    video: np.ndarray
    """uint8 (frames, height, width, 3)."""
    start: int
    """Number of the clip's first frame in its file."""
    fps: float
    """Frames per second, on average."""
    seconds: list[float]
    """Time of each frame in seconds after the clip's first frame."""
    pixel_aspect: float
    """Width of a pixel over its height."""
    box: CropBox


def read_clips(
    media: Media, kind: MediaKind, config: LatentsConfig, limits: ClipLimits
) -> Generator[DatasetClip, None, int]:
    """Yield all clips of a video or an image, in constant memory.

    A video is cut into clips of `config.clip_frames` frames, and frames that are left at its end
    are dropped. If `config.clip_frames` is None, clips are as long as `config.record_mb` allows,
    and the last one has the rest. An image is a clip of one frame.

    Returns:
        The number of frames that were dropped at the end.

    Raises:
        UserError: the file cannot be read, is too small or too short, or is damaged. Clips before
            the damage are yielded first.
    """
    if kind == "image":
        frame = media.array[0] if isinstance(media, Frames) else read_image(media)
        return (yield from _cut(iter([frame]), _IMAGE, media, 1, config, limits))
    if isinstance(media, Frames):
        frames, length = iter(media.array), config.clip_frames
        times = Times(Fraction(media.fps).limit_denominator(100_000))
        return (yield from _cut(frames, (times, STANDARD), media, length, config, limits))
    shown = read_times(media), probe(media).display
    with open_video(media) as video:
        frames = video.frames(threads="NONE")  # other threads read other files
        return (yield from _cut(frames, shown, media, config.clip_frames, config, limits))


def _cut(
    frames: Iterator[Frame],
    shown: tuple[Times, Display],
    media: Media,
    length: int | None,
    config: LatentsConfig,
    limits: ClipLimits,
) -> Generator[DatasetClip, None, int]:
    """Yield clips of `length` frames; None: of as many frames as fit into a record."""
    first = next(frames, None)
    if first is None:
        raise UserError(f"{media} holds no frame that can be decoded.")
    original = frame_size(first)
    _require_size(media, original, config.size, limits.smallest)
    box = CropBox.of(original, config.size)
    capacity = length or _fitting(box, config.record_mb, limits.temporal_compression)
    frames = itertools.chain([first], frames)
    for start in itertools.count(step=capacity):
        video = np.empty((capacity, box.height, box.width, 3), np.uint8)
        count = 0
        for frame in itertools.islice(frames, capacity):
            video[count] = box.cut(resized_frame(frame, cover=box.resized))
            count += 1
        if length and count < length:
            if not start:
                raise UserError(f"{media} has {count} frames, fewer than a clip of {length}.")
            return count
        if count:
            yield _clip(video[:count], start, *shown, box)
        if count < capacity:
            return 0


def _clip(
    video: np.ndarray, start: int, times: Times, display: Display, box: CropBox
) -> DatasetClip:
    seconds = [float(times.at(start + k) - times.at(start)) for k in range(len(video))]
    return DatasetClip(video, start, float(times.rate), seconds, float(display.pixel_aspect), box)


def _fitting(box: CropBox, megabytes: float, temporal_compression: int) -> int:
    """The number of frames that fit into a record, such that no latent frame needs padding."""
    frames = int(megabytes * 2**20) // (3 * box.height * box.width)
    return 1 + temporal_compression * max((frames - 1) // temporal_compression, 1)


def _require_size(
    media: Media, original: tuple[int, int], wanted: int | None, smallest: int
) -> None:
    height, width = original
    require_pixels(media, height, width)
    if min(original) < smallest:
        raise UserError(
            f"{media} has {width}x{height} pixels; this model needs {smallest}x{smallest} at least."
        )
    if wanted is not None and min(original) < wanted:
        raise UserError(
            f"{media} has {width}x{height} pixels, fewer than the size {wanted}; frames are never "
            "enlarged."
        )

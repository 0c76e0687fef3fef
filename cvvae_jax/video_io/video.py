"""Reads videos: their properties, all frames in order, and clips by frame number.

Frames are uint8 arrays (height, width, 3), RGB, upright: rotation metadata and EXIF orientation are
applied. Frame k is the k-th in presentation order. Non-square pixels are not resampled, interlaced
frames are not split into fields, and an alpha channel is dropped.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from cvvae_jax.errors import UserError
from cvvae_jax.video_io.containers import (
    require_pixels,
    resized,
)
from cvvae_jax.video_io.decoding import open_video, to_rgb, upright_size
from cvvae_jax.video_io.display import STANDARD, Display
from cvvae_jax.video_io.frame_index import count_frames, whole_index
from cvvae_jax.video_io.images import is_image, read_image
from cvvae_jax.video_io.media_types import Blob, Frames, Media, MediaFile

Frame = av.VideoFrame | np.ndarray
"""A decoded frame: PyAV's, or an upright uint8 array (height, width, 3)."""


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Properties that a video or image file states."""

    path: Path | Blob
    """The file."""
    frames: int | None
    """Number of frames as the container states it; None where it doesn't."""
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
        UserError: there is no such file, or it is neither a video nor an image.
    """
    file = Path(file) if isinstance(file, str) else file
    if is_image(file):
        height, width, _ = read_image(file).shape
        return VideoInfo(file, 1, Fraction(1), height, width, has_audio=False, is_image=True)
    with open_video(file) as video:
        first = next(video.frames(threads="NONE"), None)
        if first is None:
            raise UserError(f"{file} holds no frame that can be decoded.")
        height, width = upright_size(first)
        if not video.rate:
            raise UserError(f"{file} does not state its frames per second.")
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
    """The frames of a video from number `start` on, in constant memory; an image has one frame.

    Yields:
        uint8 arrays (height, width, 3), all of one size.

    Raises:
        UserError: the file cannot be read, changes its frame size, or ends early; the frames before
            that have been yielded.
    """
    if is_image(file):
        yield from [read_image(file)][start:]
        return
    with open_video(file) as video:
        for frame in itertools.islice(video.frames(), start, None):
            yield to_rgb(frame)


def read_clip(
    media: str | Media,
    numbers: Sequence[int] | np.ndarray,
    *,
    short_side: int | None = None,
    cover: tuple[int, int] | None = None,
) -> np.ndarray:
    """Frames of a video by their numbers; the same pixels as `read_frames` gives.

    Args:
        media: a video, or an image (which has only frame 0).
        numbers: frame numbers from 0 on, in order; a number may be repeated.
        short_side: pixels of the short side after an antialiased resize.
        cover: (height, width) that the resize reaches at least.

    Returns:
        uint8 array (len(numbers), height, width, 3).

    Raises:
        UserError: the file cannot be read, or has no frames with these numbers.
    """
    wanted, repeats = np.unique(numbers, return_inverse=True)
    count = count_frames(media)
    if wanted[0] < 0 or wanted[-1] >= count:
        raise UserError(
            f"{media} has {count} frames; frames {wanted[0]} to {wanted[-1]} were asked for."
        )
    frames: list[np.ndarray] = []
    size = functools.partial(resized, short_side=short_side, cover=cover)
    if isinstance(media, Frames):
        frames = [_rescaled(media, media.array[number], size) for number in wanted]
    elif is_image(media):
        frames = [read_image(media, short_side=short_side, cover=cover)]
    else:
        # If a decoder that begins in the middle fails, reading from the beginning tells why.
        with contextlib.suppress(UserError):
            frames = _clip_by_seeking(media, wanted, short_side=short_side, cover=cover)
        frames = frames or _clip_in_sequence(media, wanted, short_side=short_side, cover=cover)
    return np.stack(frames)[repeats]


def _clip_by_seeking(file: MediaFile, wanted: np.ndarray, **size) -> list[np.ndarray]:
    """The wanted frames, decoded from the keyframe before them; an empty list where times don't
    identify frames."""
    index = whole_index(file)
    if not index.seekable or index.keyframes[0] > index.ticks[wanted[0]]:
        return []
    ticks = index.ticks[wanted]
    before = index.keyframes[np.searchsorted(index.keyframes, ticks[0], side="right") - 1]
    clip = []
    with open_video(file) as video:
        for frame in video.frames_from(int(before)):
            if frame.pts is None or frame.pts > ticks[len(clip)]:
                return []
            if frame.pts == ticks[len(clip)]:
                video.require_usable(frame)
                clip.append(_sized_rgb(frame, file, **size))
            if len(clip) == len(ticks):
                return clip
    return []


def _clip_in_sequence(file: MediaFile, wanted: np.ndarray, **size) -> list[np.ndarray]:
    index, clip, chosen = whole_index(file), [], set(wanted.tolist())
    with open_video(file) as video:
        for number, frame in enumerate(video.frames(threads="NONE")):
            if number in chosen:
                if index.seekable and frame.pts != index.ticks[number]:
                    break  # a frame before this one is missing
                clip.append(_sized_rgb(frame, file, **size))
            if len(clip) == len(chosen):
                return clip
    raise UserError(f"{file} is damaged: it has fewer frames than packets.")


def _sized_rgb(frame: av.VideoFrame, file: MediaFile, **size) -> np.ndarray:
    require_pixels(file, *resized(frame.height, frame.width, **size))
    return to_rgb(frame, **size)


def _rescaled(media: Frames, frame: np.ndarray, size) -> np.ndarray:
    height, width = size(*frame.shape[:2])
    require_pixels(media, height, width)
    if (height, width) == frame.shape[:2]:
        return frame
    return to_rgb(
        av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"),
        cover=(height, width),
    )


def frame_size(frame: Frame) -> tuple[int, int]:
    """Height and width of a frame, upright."""
    return upright_size(frame) if isinstance(frame, av.VideoFrame) else frame.shape[:2]


def resized_frame(frame: Frame, **size) -> np.ndarray:
    """A frame as an upright uint8 array (height, width, 3), resized with an antialiasing filter.

    Args:
        frame: the frame.
        **size: `short_side` or `cover`, as `containers.resized` takes them.
    """
    if isinstance(frame, av.VideoFrame):
        return to_rgb(frame, **size)
    height, width = resized(*frame.shape[:2], **size)
    if (height, width) == frame.shape[:2]:
        return np.ascontiguousarray(frame)
    image = Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))

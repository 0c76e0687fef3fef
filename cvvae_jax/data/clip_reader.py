"""Some frames of a video by their numbers, without decoding those long before them."""

import contextlib
import functools
from collections.abc import Sequence

import av
import numpy as np

from cvvae_jax.config import ConfigError
from cvvae_jax.data.containers import require_pixels, resized
from cvvae_jax.data.decoding import open_video, to_rgb
from cvvae_jax.data.frame_index import count_frames, whole_index
from cvvae_jax.data.images import is_image, read_image
from cvvae_jax.data.media import Frames, Media, MediaFile


def read_clip(
    media: str | Media,
    numbers: Sequence[int] | np.ndarray,
    *,
    short_side: int | None = None,
    cover: tuple[int, int] | None = None,
) -> np.ndarray:
    """Frames of a video by their numbers: those that reading it from its beginning gives.

    Args:
        media: a video, or an image (which has only frame 0).
        numbers: of the frames, from 0 on, none less than the one before it; a number may be given
            several times.
        short_side: pixels of the short side after an antialiased resize.
        cover: (height, width) that the resize reaches at least.

    Returns:
        uint8 array (len(numbers), height, width, 3).

    Raises:
        ConfigError: the file cannot be read, or has no such frames.
    """
    wanted, repeats = np.unique(numbers, return_inverse=True)
    count = count_frames(media)
    if wanted[0] < 0 or wanted[-1] >= count:
        raise ConfigError(
            f"{media} has {count} frames; frames {wanted[0]} to {wanted[-1]} were asked for."
        )
    frames: list[np.ndarray] = []
    size = functools.partial(resized, short_side=short_side, cover=cover)
    if isinstance(media, Frames):
        frames = [_rescaled(media, media.array[number], size) for number in wanted]
    elif is_image(media):
        frames = [read_image(media, short_side=short_side, cover=cover)]
    else:
        # Where a decoder that begins in the middle fails, reading from the beginning tells why.
        with contextlib.suppress(ConfigError):
            frames = _clip_by_seeking(media, wanted, short_side=short_side, cover=cover)
        frames = frames or _clip_in_sequence(media, wanted, short_side=short_side, cover=cover)
    return np.stack(frames)[repeats]


def _clip_by_seeking(file: MediaFile, wanted: np.ndarray, **size) -> list[np.ndarray]:
    """The wanted frames, decoded from the keyframe before; none where times do not tell frames."""
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
                    break  # one before it is missing
                clip.append(_sized_rgb(frame, file, **size))
            if len(clip) == len(chosen):
                return clip
    raise ConfigError(f"{file} is damaged: it has fewer frames than packets.")


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

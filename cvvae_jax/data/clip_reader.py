"""Some frames of a video by their numbers, without decoding those long before them."""

import dataclasses
import functools
import itertools
import weakref
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from cvvae_jax.config import ConfigError
from cvvae_jax.data.containers import require_file, require_pixels, require_shape, resized
from cvvae_jax.data.decoding import all_packets, decode, open_video, stated_rate, to_rgb
from cvvae_jax.data.images import is_image, read_image
from cvvae_jax.data.media import Blob, Frames, Media, MediaFile

# Where a file states neither times nor a rate.
_USUAL_FPS = 25


def count_frames(media: str | Media) -> int:
    """Exact number of frames, found by reading a file without decoding it; 1 for an image.

    The answer is kept for the files that a process asked for last.

    Raises:
        ConfigError: there is no such file, it is not a video, or it was cut off.
    """
    if isinstance(media, Frames):
        return len(media.array)
    return 1 if is_image(media) else _frame_index(media).count


def frame_times(media: str | Media) -> np.ndarray:
    """When each frame is shown, in seconds from the first one on: float64 (frames,).

    Raises:
        ConfigError: as `count_frames`.
    """
    if isinstance(media, Frames):
        return np.arange(len(media.array)) / media.fps
    return np.zeros(1) if is_image(media) else _frame_index(media).seconds


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
    size = functools.partial(resized, short_side=short_side, cover=cover)
    if isinstance(media, Frames):
        frames = [_rescaled(media, media.array[number], size) for number in wanted]
    elif is_image(media):
        frames = [read_image(media, short_side=short_side, cover=cover)]
    else:
        frames = _clip_by_seeking(media, wanted, short_side=short_side, cover=cover)
        frames = frames or _clip_in_sequence(media, wanted, short_side=short_side, cover=cover)
    for frame in frames:
        require_shape(media, frame, frames[0].shape)
    return np.stack(frames)[repeats]


@dataclasses.dataclass(frozen=True)
class _FrameIndex:
    """Presentation times of a video's frames and keyframes, sorted, in units of its time base."""

    count: int
    times: np.ndarray
    keyframes: np.ndarray
    time_base: float
    rate: float

    @property
    def seconds(self) -> np.ndarray:
        """The times from the first frame on, or those of a constant rate where some are unknown."""
        if len(self.times) == self.count:
            return (self.times - self.times[0]) * self.time_base
        return np.arange(self.count) / self.rate

    @property
    def seekable(self) -> bool:
        """Whether a frame is known by its time."""
        return len(np.unique(self.times)) == self.count and len(self.keyframes) > 0


_indexes: weakref.WeakKeyDictionary[Blob, _FrameIndex] = weakref.WeakKeyDictionary()


def _frame_index(file: MediaFile) -> _FrameIndex:
    if isinstance(file, Blob):
        if file not in _indexes:
            _indexes[file] = _scan(file)
        return _indexes[file]
    path = require_file(file)
    stat = path.stat()
    return _scan_once(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1024)
def _scan_once(path: Path, mtime_ns: int, size: int) -> _FrameIndex:
    """The index of a file as it was at its last change."""
    return _scan(path)


def _scan(file: MediaFile) -> _FrameIndex:
    """The packets say all of it."""
    with open_video(file) as (container, stream):
        packets = all_packets(container, stream, file)
        shown = [(p.pts, p.is_keyframe) for p in packets if p.size and not p.is_discard]
        rate = float(stated_rate(stream) or _USUAL_FPS)
        time_base = float(stream.time_base)
    if not shown:
        raise ConfigError(f"{file} holds no frame.")
    times = np.sort([pts for pts, _ in shown if pts is not None]).astype(np.int64)
    keyframes = np.sort([pts for pts, is_key in shown if is_key and pts is not None])
    return _FrameIndex(len(shown), times, keyframes.astype(np.int64), time_base, rate)


def _clip_by_seeking(file: MediaFile, wanted: np.ndarray, **size) -> list[np.ndarray]:
    """The wanted frames, decoded from the keyframe before; none where times do not tell frames."""
    index = _frame_index(file)
    if not index.seekable or index.keyframes[0] > index.times[wanted[0]]:
        return []
    times = index.times[wanted]
    before = index.keyframes[np.searchsorted(index.keyframes, times[0], side="right") - 1]
    clip = []
    with open_video(file) as (container, stream):
        # The pipeline decodes clips side by side in threads and processes of its own.
        stream.thread_type = "NONE"
        container.seek(int(before), stream=stream)
        for frame in decode(container.demux(stream), stream, file):
            if frame.pts is None or frame.pts > times[len(clip)]:
                return []
            if frame.pts == times[len(clip)]:
                clip.append(_sound_rgb(frame, file, **size))
            if len(clip) == len(times):
                return clip
    return []


def _clip_in_sequence(file: MediaFile, wanted: np.ndarray, **size) -> list[np.ndarray]:
    clip, chosen = [], set(wanted.tolist())
    with open_video(file) as (container, stream):
        frames = decode(container.demux(stream), stream, file)
        for number, frame in enumerate(itertools.islice(frames, int(wanted[-1]) + 1)):
            if number in chosen:
                clip.append(_sound_rgb(frame, file, **size))
    if len(clip) < len(wanted):
        raise ConfigError(f"{file} is damaged: it has fewer frames than packets.")
    return clip


def _sound_rgb(frame: av.VideoFrame, file: MediaFile, **size) -> np.ndarray:
    if frame.is_corrupt:
        raise ConfigError(f"{file} is damaged: a frame of it could be decoded only in part.")
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

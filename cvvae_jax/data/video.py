"""Reading video and image files; `VideoWriter` and `write_image` can be had from here, too.

Frames are uint8 arrays (height, width, 3), RGB, upright: rotation metadata and EXIF orientation are
applied. Frame k is the k-th in presentation order. Non-square pixels are taken as they are stored.
"""

import contextlib
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from cvvae_jax.config import ConfigError
from cvvae_jax.data.containers import (
    IMAGE_SUFFIXES,
    SCALER,
    VIDEO_SUFFIXES,
    WRITABLE_IMAGE_SUFFIXES,
    WRITABLE_VIDEO_SUFFIXES,
    open_container,
    reason,
    require_file,
    require_shape,
    resized,
)
from cvvae_jax.data.images import is_image, read_image, write_image
from cvvae_jax.data.video_writer import VideoWriter

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "WRITABLE_IMAGE_SUFFIXES",
    "WRITABLE_VIDEO_SUFFIXES",
    "VideoInfo",
    "VideoWriter",
    "count_frames",
    "is_image",
    "probe",
    "read_clip",
    "read_frames",
    "read_image",
    "write_image",
]

# Seconds that may be missing at the end before a container without an index counts as cut off: what
# such files state about their length includes how long the last frame is shown.
_DURATION_TOLERANCE = 1.0


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a file says about itself."""

    path: Path
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


def probe(path: str | Path) -> VideoInfo:
    """Size, rate and streams of a video or image file.

    Raises:
        ConfigError: there is no such file, or it is neither a video nor an image.
    """
    path = Path(path)
    if is_image(path):
        height, width, _ = read_image(path).shape
        return VideoInfo(path, 1, Fraction(1), height, width, has_audio=False, is_image=True)
    with _open_video(path) as (container, stream):
        first = next(_decode(container.demux(stream), stream, path), None)
        if first is None:
            raise ConfigError(f"{path} holds no frame that can be decoded.")
        height, width = _upright_size(first)
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise ConfigError(f"{path} does not state its frames per second.")
        audio = bool(container.streams.audio)
        return VideoInfo(
            path, stream.frames or None, rate, height, width, has_audio=audio, is_image=False
        )


def count_frames(path: str | Path) -> int:
    """Exact number of frames, found by reading the file without decoding it; 1 for an image.

    The answer is kept, so that a process reads a file only once for it.

    Raises:
        ConfigError: there is no such file, or it is not a video.
    """
    return 1 if is_image(path) else _frame_index(Path(path)).count


def read_frames(path: str | Path, *, start: int = 0) -> Iterator[np.ndarray]:
    """The frames of a video, or the one of an image, from number `start` on, in constant memory.

    Yields:
        uint8 arrays (height, width, 3), all of one size.

    Raises:
        ConfigError: the file cannot be read, changes its frame size, or ends early; the frames that
            could be decoded have been yielded before.
    """
    path = Path(path)
    shape = None
    for frame in [read_image(path)][start:] if is_image(path) else _read_video(path, start=start):
        shape = shape or frame.shape
        require_shape(path, frame, shape)
        yield frame


def read_clip(
    path: str | Path, *, start: int, stride: int, frames: int, short_side: int | None = None
) -> np.ndarray:
    """Frames start, start + stride, .. of a video: those that reading it from its beginning gives.

    Args:
        path: a video, or an image (which has only frame 0).
        start: number of the first frame.
        stride: source frames from one frame of the clip to the next.
        frames: length of the clip.
        short_side: pixels of the short side after an antialiased resize; None leaves the size.

    Returns:
        uint8 array (frames, height, width, 3).

    Raises:
        ConfigError: the file cannot be read, or has no such frames.
    """
    path = Path(path)
    wanted = range(start, start + stride * frames, stride)
    count = count_frames(path)
    if start < 0 or wanted[-1] >= count:
        raise ConfigError(
            f"{path} has {count} frames; frames {start} to {wanted[-1]} were asked for."
        )
    if is_image(path):
        return read_image(path, short_side=short_side)[None]
    clip = _clip_by_seeking(path, wanted, short_side) or _clip_in_sequence(path, wanted, short_side)
    for frame in clip:
        require_shape(path, frame, clip[0].shape)
    return np.stack(clip)


@contextlib.contextmanager
def _open_video(path: Path) -> Iterator[tuple]:
    """The container and its first video stream."""
    with open_container(path) as container:
        if not container.streams.video:
            raise ConfigError(f"{path} holds no video stream.")
        yield container, container.streams.video[0]


def _decode(packets: Iterable[av.Packet], stream, path: Path) -> Iterator[av.VideoFrame]:
    """Frames in presentation order; a packet that fails ends them with ConfigError."""
    try:
        for packet in packets:
            yield from packet.decode()
    except av.error.FFmpegError as error:
        with contextlib.suppress(av.error.FFmpegError):
            yield from stream.codec_context.decode(None)
        raise ConfigError(f"{path} is damaged: {reason(error)}.") from error


def _all_packets(container, stream, path: Path) -> Iterator[av.Packet]:
    """Every packet; then ConfigError if some are missing.

    A demuxer takes the end of a file that was cut off for the end of the video.
    """
    count, end = 0, Fraction(0)
    for packet in container.demux(stream):
        count += packet.size > 0
        if packet.pts is not None:
            end = max(end, (packet.pts - (stream.start_time or 0)) * packet.time_base)
        yield packet
    if count < len(stream.index_entries) or end < _stated_seconds(stream) - _DURATION_TOLERANCE:
        raise ConfigError(f"{path} ends early: it was cut off after {count} frames.")


def _stated_seconds(stream) -> float:
    """How long a Matroska file says its video is; 0 where it does not."""
    stated = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
    if stated is None:
        return 0.0
    hours, minutes, seconds = map(float, stated.groups())
    return 3600 * hours + 60 * minutes + seconds


def _read_video(path: Path, *, start: int) -> Iterator[np.ndarray]:
    with _open_video(path) as (container, stream):
        stream.thread_type = "AUTO"
        frames = _decode(_all_packets(container, stream, path), stream, path)
        for frame in itertools.islice(frames, start, None):
            yield _to_rgb(frame)


@dataclasses.dataclass(frozen=True)
class _FrameIndex:
    """Presentation times of a video's frames and keyframes, sorted, in units of its time base."""

    count: int
    times: np.ndarray
    keyframes: np.ndarray


def _frame_index(path: Path) -> _FrameIndex:
    require_file(path)
    stat = path.stat()
    return _scan(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4096)
def _scan(path: Path, mtime_ns: int, size: int) -> _FrameIndex:
    """The index of a file as it was at its last change; the packets say all of it."""
    with _open_video(path) as (container, stream):
        try:
            packets = container.demux(stream)
            shown = [(p.pts, p.is_keyframe) for p in packets if p.size and not p.is_discard]
        except av.error.FFmpegError as error:
            raise ConfigError(f"{path} is damaged: {reason(error)}.") from error
    times = np.array([pts for pts, _ in shown if pts is not None], np.int64)
    keyframes = np.array([pts for pts, is_key in shown if is_key and pts is not None], np.int64)
    return _FrameIndex(len(shown), np.sort(times), np.sort(keyframes))


def _clip_by_seeking(path: Path, wanted: range, short_side: int | None) -> list[np.ndarray] | None:
    """The wanted frames, decoded from the keyframe before; None where times do not tell frames."""
    index = _frame_index(path)
    if len(np.unique(index.times)) < index.count:
        return None
    times = index.times[wanted.start : wanted[-1] + 1 : wanted.step]
    before = index.keyframes[index.keyframes <= times[0]]
    if not len(before):
        return None
    clip = []
    with _open_video(path) as (container, stream):
        # The pipeline decodes clips side by side in threads and processes of its own.
        stream.thread_type = "NONE"
        container.seek(int(before[-1]), stream=stream)
        for frame in _decode(container.demux(stream), stream, path):
            if frame.pts is None or frame.pts > times[len(clip)]:
                return None
            if frame.pts == times[len(clip)]:
                clip.append(_to_rgb(frame, short_side=short_side))
            if len(clip) == len(times):
                return clip
    return None


def _clip_in_sequence(path: Path, wanted: range, short_side: int | None) -> list[np.ndarray]:
    with _open_video(path) as (container, stream):
        frames = _decode(container.demux(stream), stream, path)
        chosen = itertools.islice(frames, wanted.start, wanted[-1] + 1, wanted.step)
        clip = [_to_rgb(frame, short_side=short_side) for frame in chosen]
    if len(clip) < len(wanted):
        raise ConfigError(f"{path} is damaged: it has fewer frames than packets.")
    return clip


def _to_rgb(frame: av.VideoFrame, *, short_side: int | None = None) -> np.ndarray:
    height, width = resized(frame.height, frame.width, short_side)
    rgb = frame.reformat(
        width=width,
        height=height,
        format="rgb24",
        interpolation=SCALER,
        src_color_range=frame.color_range,
        threads=1,
    )
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), frame.rotation // 90))


def _upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    turned = frame.rotation // 90 % 2
    return (frame.width, frame.height) if turned else (frame.height, frame.width)

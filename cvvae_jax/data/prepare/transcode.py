"""Transcodes a medium into the files that are stored: small frames, low rates, short GOPs."""

import io
import itertools
import math
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from cvvae_jax.data.prepare.options import PrepareConfig
from cvvae_jax.data.record_format import Entry
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.decoding import open_video
from cvvae_jax.video_io.display import STANDARD, Display
from cvvae_jax.video_io.frame_index import frame_times
from cvvae_jax.video_io.images import FORMATS, read_image
from cvvae_jax.video_io.media_types import Blob, Frames, Media, MediaKind
from cvvae_jax.video_io.video import Frame, frame_size, probe, resized_frame
from cvvae_jax.video_io.video_writer import VideoWriter

# Pixels of the sides that x264 takes and that are of use for training.
_SIDES = (16, 16384)
_KEPT_FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_ORIENTATION = 0x0112
# Rounding of times by containers, as a share of the usual time between two frames.
_TIME_TOLERANCE = 0.25
# Times that ask for more than this many times the existing frames are taken for wrong.
_MOST_REPEATED = 10


class BadMedium(Exception):
    """A medium that cannot be read or stored, and is left out. Other errors end the job."""


def transcode(
    media: Media, kind: MediaKind, name: str, sha256: str, config: PrepareConfig, folder: Path
) -> list[tuple[Entry, Path]]:
    """Write the stored files of a medium into a folder.

    Args:
        media: the medium.
        kind: kind of the medium.
        name: name of the medium in the records.
        sha256: SHA-256 of the medium's content.
        config: how the medium is transcoded.
        folder: an empty folder.

    Returns:
        The entry and the path of each file; a long video has several.

    Raises:
        BadMedium: the medium is damaged, or too small or too large.
        UserError: a file cannot be written.
    """
    if kind == "image":
        with _reading():
            data, suffix, height, width = _image(media, config.short_side)
        path = folder / f"image{suffix}"
        path.write_bytes(data)
        return [(Entry(name, kind, suffix, 1, 1.0, height, width, sha256), path)]
    return list(_videos(media, name, sha256, config, folder))


class _reading:
    """Turns any error while a medium is read into BadMedium."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, UserError):
            raise BadMedium(str(error)) from error
        # Decoders raise whatever they stumble over in damaged data.
        if isinstance(error, Exception) and not isinstance(error, (BadMedium, MemoryError)):
            raise BadMedium(f"{type(error).__name__}: {error}") from error


def _image(media: Media, short_side: int) -> tuple[bytes, str, int, int]:
    """Bytes, suffix, height and width of the image file to store."""
    if isinstance(media, Frames):
        return _jpeg(_small(media.array[0], short_side))
    frame = read_image(media)
    _require_sides(*frame.shape[:2])
    if min(frame.shape[:2]) > short_side:
        return _jpeg(read_image(media, short_side=short_side))
    data = media.data if isinstance(media, Blob) else Path(media).read_bytes()
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        kept = None if turned else _KEPT_FORMATS.get(image.format or "")
    return (data, kept, *frame.shape[:2]) if kept else _jpeg(frame)


def _jpeg(frame: np.ndarray) -> tuple[bytes, str, int, int]:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=95, subsampling="4:4:4")
    return file.getvalue(), ".jpg", *frame.shape[:2]


def _small(frame: Frame, short_side: int) -> np.ndarray:
    """A frame as an array, reduced where its short side is longer than wanted."""
    height, width = frame_size(frame)
    _require_sides(height, width)
    return resized_frame(frame, short_side=min(short_side, height, width))


def _videos(
    media: Media, name: str, sha256: str, config: PrepareConfig, folder: Path
) -> Iterator[tuple[Entry, Path]]:
    with _reading():
        fps, numbers = sampling(frame_times(media), config.max_fps)
        display = STANDARD if isinstance(media, Frames) else probe(media).display
    if not len(numbers):
        raise BadMedium(f"{media} has no frames.")
    frames = _pictures(media, numbers, config.short_side)
    pieces = math.ceil(len(numbers) / max(1, math.floor(config.max_seconds * fps)))
    ends = [len(numbers) * piece // pieces for piece in range(pieces + 1)]
    for start, end in itertools.pairwise(ends):
        path = folder / f"video-{start:09d}.mp4"
        part_frames = itertools.islice(frames, end - start)
        height, width = _write(path, part_frames, fps, display, config)
        part = name if pieces == 1 else f"{name}#t={_seconds(start / fps)},{_seconds(end / fps)}"
        yield Entry(part, "video", ".mp4", end - start, float(fps), height, width, sha256), path
    deque(frames, maxlen=0)  # runs the generator to its end


def sampling(times: np.ndarray, max_fps: float) -> tuple[Fraction, np.ndarray]:
    """Which frames of a video are stored, and at which constant rate.

    All frames of a video with even times and at most `max_fps` are stored. Otherwise stored frame
    k is the frame that is shown at the time k / fps.

    Args:
        times: when each frame is shown, in seconds from the first one on.
        max_fps: frames per second, at most.

    Returns:
        The frames per second, and the numbers of the frames, which may repeat.

    Raises:
        UserError: the times have leaps.
    """
    count = len(times)
    gaps = np.diff(times)
    if count < 2 or times[-1] <= 0 or np.median(gaps) <= 0:
        return Fraction(25), np.arange(count)
    even = times[-1] / (count - 1)
    drift = np.abs(times - even * np.arange(count)).max()
    # 30 frames a second must pass although a container rounds times to milliseconds.
    if drift <= even / 2 and 1 / even <= max_fps * 1.001:
        return Fraction(1 / even).limit_denominator(1001), np.arange(count)
    step = max(float(np.median(gaps)), 1 / max_fps)
    tolerance = _TIME_TOLERANCE * float(np.median(gaps))
    wanted = math.ceil((times[-1] + np.median(gaps) - tolerance) / step)
    if wanted > _MOST_REPEATED * count:
        raise UserError(
            f"its {count} frames last {times[-1]:.0f} s, though most of them follow each other "
            f"after {np.median(gaps):.3f} s: their times leap."
        )
    shown = np.searchsorted(times, np.arange(wanted) * step + tolerance, side="right") - 1
    return Fraction(1 / step).limit_denominator(1001), shown


def _pictures(media: Media, numbers: np.ndarray, short_side: int) -> Iterator[np.ndarray]:
    """Frames by rising numbers, which may repeat: upright, reduced, with even height and width.

    Raises:
        BadMedium: a frame cannot be decoded, or some are missing.
    """
    # Errors of the caller are not caught: a generator sees only its own.
    with _reading():
        frames = _frames(media)
        position, picture = -1, None
        for number in numbers:
            if position < number:
                frame = next(itertools.islice(frames, number - position - 1, None), None)
                if frame is None:
                    raise UserError(f"{media} is damaged: it has fewer frames than packets.")
                position, picture = number, _picture(frame, short_side)
            yield picture
        deque(frames, maxlen=0)  # raises where the remaining frames are damaged


def _frames(media: Media) -> Iterator[Frame]:
    if isinstance(media, Frames):
        yield from media.array
        return
    with open_video(media) as video:
        yield from video.frames(threads="NONE")


def _picture(frame: Frame, short_side: int) -> np.ndarray:
    """A frame as `_small` gives it, without the last row or column where their number is odd."""
    picture = _small(frame, short_side)
    height, width = (side - side % 2 for side in picture.shape[:2])
    return picture[:height, :width]


def _write(
    path: Path,
    frames: Iterator[np.ndarray],
    fps: Fraction,
    display: Display,
    config: PrepareConfig,
) -> tuple[int, int]:
    """Write a video of at least one frame; returns its height and width."""
    first = next(frames)
    height, width = first.shape[:2]
    # One thread, so that the bytes are the same on every machine.
    with VideoWriter(
        path,
        fps=fps,
        height=height,
        width=width,
        display=display,
        crf=config.crf,
        gop=config.gop,
        threads=1,
    ) as writer:
        for frame in itertools.chain([first], frames):
            writer.write(frame)
    return height, width


def _require_sides(height: int, width: int) -> None:
    least, most = _SIDES
    if min(height, width) < least or max(height, width) > most:
        raise UserError(
            f"it has {width}x{height} pixels; its sides must be from {least} to {most}."
        )


def _seconds(value: Fraction) -> str:
    """Seconds as text, with milliseconds where they aren't 0."""
    return f"{float(value):.3f}".rstrip("0").rstrip(".")

"""What reading and writing of video and image files share: suffixes, opening, and the scaler."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

from cvvae_jax.config import ConfigError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v", ".webm", ".avi")
"""Suffixes of the files that a folder of videos is searched for."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Suffixes of the files that are read as images, and that a folder of images is searched for."""
WRITABLE_VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")
"""Suffixes that `VideoWriter` accepts."""
WRITABLE_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Suffixes that `write_image` accepts."""

SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""How swscale resizes and converts. Without the two last flags it takes a short cut from 4:2:0 to
RGB that is 1 to 2 levels too dark and caps the PSNR of a round trip at 40 dB."""


@contextlib.contextmanager
def open_container(path: Path) -> Iterator[av.container.InputContainer]:
    """A media file, open for reading.

    Raises:
        ConfigError: there is no such file, or it is no media file.
    """
    require_file(path)
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as a video: {reason(error)}.") from error
    with container:
        yield container


def require_file(path: Path) -> None:
    """Raise ConfigError unless a file is there."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file.")


def require_shape(path: Path, frame: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless a frame has the shape (height, width, 3) of those before it."""
    if frame.shape != shape:
        size, other = (f"{width}x{height}" for height, width, _ in (shape, frame.shape))
        raise ConfigError(
            f"{path}: all frames of a video must have one size, here {size}; one has {other}."
        )


def require_suffix(path: Path, accepted: tuple[str, ...]) -> None:
    """Raise ConfigError unless a file to write has one of the accepted suffixes."""
    if path.suffix.lower() not in accepted:
        raise ConfigError(
            f"{path} cannot be written: its suffix must be one of {', '.join(accepted)}."
        )


def partial_path(path: Path) -> Path:
    """Where a file is written until it is complete: beside it, so that renaming is atomic."""
    return path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")


def resized(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Height and width scaled to a short side of so many pixels; unchanged for None."""
    scale = (short_side or min(height, width)) / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def reason(error: Exception) -> str:
    """What an error of the file system or of FFmpeg says, without numbers and paths."""
    return getattr(error, "strerror", None) or str(error)

"""Video and image files: suffixes, opening, scaling, and their type by the first bytes."""

import contextlib
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import av
from av.video.reformatter import Interpolation

from cvvae_jax.config.places import at_home
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.media_types import Blob, Frames, MediaFile

VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".mov", ".m4v", ".webm", ".avi"),
    *(".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv", ".gif"),
)
"""Suffixes of the files that a folder of videos is searched for."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif")
"""Suffixes of the files that are read as images."""
WRITABLE_VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")
"""Suffixes that `VideoWriter` accepts."""
WRITABLE_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Suffixes that `write_image` accepts."""

SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""swscale's flags for resizing and conversion. Without the last two, swscale takes a shortcut from
4:2:0 to RGB that is 1 to 2 levels too dark and limits the PSNR of a round trip to 40 dB."""

DEMUXERS = (
    *("mov", "matroska", "avi", "mpeg", "mpegts", "asf", "flv", "ogg", "gif"),
    *("h264", "hevc", "m4v", "mpegvideo"),  # a bare stream, without times
    *("mp3", "aac", "wav", "flac"),  # sound for a video that is written
)
"""FFmpeg's names of the containers that are opened. FFmpeg goes by a file's content, and would
otherwise follow playlists to files elsewhere."""

# PyAV 19 reads metadata in any encoding by itself. PyAV 18, the last one for Python 3.11, fails
# where they are not UTF-8 without this option. Remove it when 19 is the lowest version.
_READING = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}

_ONLY_LISTED = {"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": "file"}

LARGEST_FRAME = 2**26
"""Pixels of the largest frame that is decoded (8192 x 8192). A header that states more is taken for
broken, before memory is allocated."""


def suffix(file: MediaFile) -> str:
    """The suffix of a file's name, in lower case, with the dot."""
    return PurePosixPath(str(file)).suffix.lower()


@contextlib.contextmanager
def open_container(file: MediaFile) -> Iterator[av.container.InputContainer]:
    """A media file, open for reading.

    Raises:
        UserError: there is no such file, or it is not a media file.
    """
    file = require_file(file)
    # The prefix keeps FFmpeg from taking a name for a protocol or a pattern.
    source = io.BytesIO(file.data) if isinstance(file, Blob) else f"file:{file}"
    try:
        container = av.open(source, options=_ONLY_LISTED, **_READING)
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(
            f"{file} cannot be read as a video ({reason(error)}); accepted are MP4, QuickTime, "
            "Matroska, WebM, AVI, MPEG, WMV, FLV, Ogg and GIF."
        ) from error
    with container:
        yield container


def exact(rational: Any) -> Fraction | None:
    """A rate or a time base of PyAV as an exact fraction; None where the file doesn't state it.

    PyAV 18 has Fractions and None. PyAV 19 has a type of its own, whose products are rounded, and
    which is 0/1 or x/0 for an unstated value.
    """
    return Fraction(rational.numerator, rational.denominator) if rational else None


def require_file(file: MediaFile) -> Blob | Path:
    """The path of a file with the home folder resolved; raises UserError unless the file exists."""
    if isinstance(file, Blob):
        return file
    path = Path(at_home(file))
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    return path


def require_pixels(file: MediaFile | Frames, height: int, width: int) -> None:
    """Raise UserError where a frame would be larger than LARGEST_FRAME."""
    if height * width > LARGEST_FRAME:
        raise UserError(
            f"{file} has frames of {width}x{height}, more than the {LARGEST_FRAME:,} pixels that "
            "are decoded."
        )


def require_shape(
    path: MediaFile | Frames, shape: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    """Raise UserError unless a frame has the same shape, (height, width, ...), as earlier ones."""
    if shape != wanted:
        size, other = (f"{width}x{height}" for height, width, *_ in (wanted, shape))
        raise UserError(
            f"{path}: all frames of a video must have one size, here {size}; one has {other}."
        )


def require_suffix(path: Path, accepted: tuple[str, ...]) -> None:
    """Raise UserError unless a file to write has one of the accepted suffixes."""
    if path.suffix.lower() not in accepted:
        raise UserError(
            f"{path} cannot be written: its suffix must be one of {', '.join(accepted)}."
        )


def resized(
    height: int,
    width: int,
    *,
    short_side: int | None = None,
    cover: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """A height and a width, scaled by the same factor.

    Args:
        height: in pixels.
        width: in pixels.
        short_side: length of the shorter side after scaling.
        cover: (height, width) to reach at least. It enlarges what `short_side` would leave
            smaller; without `short_side`, one of the two is reached exactly.
    """
    scales = [short_side / min(height, width)] if short_side else []
    if cover:
        scales.append(max(cover[0] / height, cover[1] / width))
    scale = max(scales, default=1.0)
    least = cover or (1, 1)
    return max(least[0], round(height * scale)), max(least[1], round(width * scale))


def one_line(error: Exception) -> str:
    """The message of an error in one line, after the error's class unless that is UserError."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def reason(error: Exception) -> str:
    """The message of an error of the file system or of FFmpeg, without numbers and paths."""
    return getattr(error, "strerror", None) or str(error)


_PREFIXES = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF87a", ".gif"),
    (b"GIF89a", ".gif"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"II+\0", ".tif"),
    (b"MM\0+", ".tif"),
    (b"FLV\x01", ".flv"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ".wmv"),
    (b"\0\0\x01\xba", ".mpg"),
    (b"\0\0\x01\xb3", ".mpg"),
)
_RIFF = {b"AVI ": ".avi", b"WEBP": ".webp"}
_QUICKTIME_BOXES = (b"moov", b"mdat", b"wide", b"pnot")
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
_TS_PACKET = 188


def media_suffix(data: bytes) -> str | None:
    """The suffix that fits the content of a media file, by its first bytes; 512 are enough.

    Returns:
        One of `VIDEO_SUFFIXES` or `IMAGE_SUFFIXES`, such as ".mp4" or ".jpg"; None for audio and
        for unknown content.
    """
    head = bytes(data[:1024])
    for prefix, suffix in _PREFIXES:
        if head.startswith(prefix):
            return suffix
    if head[4:8] == b"ftyp":
        return _iso_suffix(head)
    if head[4:8] in _QUICKTIME_BOXES:  # old QuickTime files have no `ftyp`
        return ".mov"
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12])
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return ".webm" if b"webm" in head[:64] else ".mkv"
    if head.startswith(b"OggS"):
        return ".ogv" if b"theora" in head else None
    # Two letters and one byte are too few: other files begin with them by chance.
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return ".bmp"
    if len(head) > 2 * _TS_PACKET and head[: 2 * _TS_PACKET + 1 : _TS_PACKET] == b"GGG":
        return ".ts"
    return None


def _iso_suffix(head: bytes) -> str | None:
    """The suffix of a file of the MP4 family, by the brands that its first box lists."""
    size = int.from_bytes(head[:4], "big")
    major = head[8:12]
    brands = {major, *(head[i : i + 4] for i in range(16, min(size, len(head)), 4))}
    if brands & {b"avif", b"avis"}:
        return ".avif"
    if brands & {b"heic", b"heix", b"mif1"} or major in (b"M4A ", b"M4B "):
        return None
    return {b"qt  ": ".mov", b"M4V ": ".m4v"}.get(major, ".mp4")

"""From an open video to RGB frames: what reading in sequence and reading of clips share."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np

from cvvae_jax.config import ConfigError
from cvvae_jax.data.containers import SCALER, exact, open_container, reason, require_pixels, resized
from cvvae_jax.data.media import MediaFile

# Seconds that may be missing at the end before a container without an index counts as cut off: what
# such files state about their length includes how long the last frame is shown.
_DURATION_TOLERANCE = 1.0


@contextlib.contextmanager
def open_video(file: MediaFile) -> Iterator[tuple]:
    """The container and its first video stream.

    Raises:
        ConfigError: there is none, its frames are too large to decode, or FFmpeg fails on it.
    """
    with open_container(file) as container:
        if not container.streams.video:
            raise ConfigError(f"{file} holds no video stream.")
        stream = container.streams.video[0]
        require_pixels(file, stream.height or 0, stream.width or 0)
        try:
            yield container, stream
        except av.error.FFmpegError as error:
            raise ConfigError(f"{file} is damaged: {reason(error)}.") from error


def stated_rate(stream) -> Fraction | None:
    """Frames per second of a video stream; None where it does not state them."""
    return exact(stream.average_rate) or exact(stream.guessed_rate)


def decode(packets: Iterable[av.Packet], stream, file: MediaFile) -> Iterator[av.VideoFrame]:
    """Frames in presentation order; a packet that fails ends them with ConfigError."""
    try:
        for packet in packets:
            yield from packet.decode()
    except av.error.FFmpegError as error:
        with contextlib.suppress(av.error.FFmpegError):
            yield from stream.codec_context.decode(None)
        raise ConfigError(f"{file} is damaged: {reason(error)}.") from error


def all_packets(container, stream, file: MediaFile) -> Iterator[av.Packet]:
    """Every packet; then ConfigError if some are missing.

    A demuxer takes the end of a file that was cut off for the end of the video.
    """
    count, end = 0, Fraction(0)
    for packet in container.demux(stream):
        count += packet.size > 0
        if packet.pts is not None:
            end = max(end, (packet.pts - (stream.start_time or 0)) * exact(packet.time_base))
        yield packet
    if count < len(stream.index_entries) or end < _stated_seconds(stream) - _DURATION_TOLERANCE:
        raise ConfigError(f"{file} ends early: it was cut off after {count} frames.")


def _stated_seconds(stream) -> float:
    """How long a Matroska file says its video is; 0 where it does not."""
    stated = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
    if stated is None:
        return 0.0
    hours, minutes, seconds = map(float, stated.groups())
    return 3600 * hours + 60 * minutes + seconds


def to_rgb(
    frame: av.VideoFrame, *, short_side: int | None = None, cover: tuple[int, int] | None = None
) -> np.ndarray:
    """A decoded frame as an upright uint8 array (height, width, 3), resized as `resized` says.

    Scaling comes before the conversion, so that fewer pixels are converted.
    """
    turns = frame.rotation // 90
    stored_cover = cover[::-1] if cover and turns % 2 else cover
    height, width = resized(frame.height, frame.width, short_side=short_side, cover=stored_cover)
    rgb = frame.reformat(
        width=width,
        height=height,
        format="rgb24",
        interpolation=SCALER,
        src_color_range=frame.color_range,
        threads=1,
    )
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), turns))


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width of a frame once it is turned as its rotation says."""
    turned = frame.rotation // 90 % 2
    return (frame.width, frame.height) if turned else (frame.height, frame.width)

"""Frames to H.264 files."""

import contextlib
import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from numbers import Rational
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from cvvae_jax.config import ConfigError
from cvvae_jax.config.home import at_home
from cvvae_jax.data.containers import (
    SCALER,
    WRITABLE_VIDEO_SUFFIXES,
    exact,
    open_container,
    partial_path,
    reason,
    require_shape,
    require_suffix,
)
from cvvae_jax.data.images import is_image

_log = logging.getLogger(__name__)
_ERRORS = (av.error.FFmpegError, OSError)
# MP4 in fragments of a second, each of which reaches the file at once; at the end they become an
# ordinary MP4. Matroska has such parts anyway.
_READABLE_WHILE_WRITTEN = {
    "movflags": "hybrid_fragmented",
    "frag_duration": "1000000",
    "cluster_time_limit": "1000",
    "flush_packets": "1",
}


def begun_path(path: Path) -> Path:
    """Where a writer that is to keep what was begun has it until the file is complete."""
    return path.with_suffix(f".partial{path.suffix}")


class VideoWriter:
    """Writes frames as H.264 video: `with VideoWriter(..) as writer: writer.write(frame)`.

    The file gets its name when it is complete; after an exception, or without any frame, there is
    none, unless it is to `keep_begun`. Colors are 4:2:0, which every player shows; frames of odd
    height or width are 4:4:4, the only format in which libx264 takes an odd size.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: Rational | float,
        height: int,
        width: int,
        audio_from: str | Path | None = None,
        crf: int = 12,
        gop: int | None = None,
        threads: int = 0,
        keep_begun: bool = False,
    ):
        """Set up a writer; the file is created on entering the context.

        Args:
            path: file to write; its suffix, one of WRITABLE_VIDEO_SUFFIXES, chooses the container.
            fps: frames per second.
            height: of every frame, in pixels.
            width: of every frame, in pixels.
            audio_from: file whose first audio stream is copied as it is, until the last frame.
            crf: x264's quality, 0 (lossless) to 51.
            gop: frames from one keyframe to the next, at most; None for x264's choice.
            threads: of the encoder; 0 for one or more a core. The bytes depend on their number,
                and on nothing else of the machine.
            keep_begun: after an exception the file holds the frames until then; after the process
                was killed, NAME.partial.SUFFIX beside it does, up to the last second or two.

        Raises:
            ConfigError: the suffix is not accepted.
        """
        self._path = Path(at_home(path))
        require_suffix(self._path, WRITABLE_VIDEO_SUFFIXES)
        self._partial, self._keep_begun = partial_path(self._path), keep_begun
        if keep_begun:
            self._partial = begun_path(self._path)
        self._fps = Fraction(fps).limit_denominator(100_000)
        self._shape = (height, width, 3)
        self._audio_from = audio_from
        self._options = {"crf": str(crf), "threads": str(threads)}
        self._options["x264-params"] = "cpu-independent=1"
        if gop is not None:
            self._options["g"] = str(gop)
        self._count = self.frames_kept = 0

    def __enter__(self):
        self._exit = contextlib.ExitStack()
        with self._named_errors():
            self._partial.touch()
        return self

    def _start(self) -> None:
        """Open the container; only for a first frame, since FFmpeg may crash in closing one that
        nothing came into."""
        with self._named_errors():
            options = _READABLE_WHILE_WRITTEN if self._keep_begun else {}
            self._container = self._exit.enter_context(
                av.open(str(self._partial), "w", container_options=options)
            )
            self._stream = _add_h264(self._container, self._fps, self._shape, self._options)
            self._audio = None
            if self._audio_from is not None and not is_image(self._audio_from):
                self._audio = self._exit.enter_context(
                    _AudioCopy.open(self._audio_from, self._container)
                )
            self._container.start_encoding()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except _ERRORS as error:
            raise ConfigError(f"{self._path} cannot be written: {reason(error)}.") from error

    def write(self, frame: np.ndarray) -> None:
        """Append a uint8 frame (height, width, 3) of the size given to the constructor.

        Raises:
            ConfigError: the frame has another size, or the file cannot be written (a full disk).
        """
        require_shape(self._path, frame, self._shape)
        if self._count == 0:
            self._start()
        picture = to_yuv(frame, self._stream.pix_fmt)
        picture.pts, picture.time_base = self._count, 1 / self._fps
        self._count += 1
        with self._named_errors():
            self._container.mux(self._stream.encode(picture))
            if self._audio:
                self._audio.copy_until(self._count / self._fps)

    @property
    def begun(self) -> Path | None:
        """The file with the frames until then, where `keep_begun` couldn't give it its name."""
        kept = self._keep_begun and self._count and self._partial.exists()
        return self._partial if kept else None

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None or (self._keep_begun and self._count):
                self._finish()
        finally:
            self._discard()

    def _finish(self) -> None:
        if self._count == 0:
            raise ConfigError(f"{self._path} was not written: there was no frame to write.")
        with self._named_errors():
            self._container.mux(self._stream.encode())
            self._exit.close()
            os.replace(self._partial, self._path)
        self.frames_kept = self._count

    def _discard(self) -> None:
        """Close what is open and remove the unfinished file, unless it is to be kept."""
        try:
            # Closing writes the rest, which fails again on a full disk; the first error is told.
            with contextlib.suppress(*_ERRORS):
                self._exit.close()
        finally:
            if self.begun is None:
                self._partial.unlink(missing_ok=True)


class _AudioCopy:
    """Copies the packets of an audio stream into a container that is being written."""

    def __init__(self, source, stream, target, target_stream, offset: Fraction):
        self._source = source
        self._target = target
        self._stream = target_stream
        self._offset = offset
        self._packets = (packet for packet in source.demux(stream) if packet.pts is not None)
        self._next = next(self._packets, None)

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: str | Path, target) -> Iterator["_AudioCopy | None"]:
        """The copier; None where there is no audio, or the container cannot hold its codec."""
        with open_container(Path(path)) as source:
            stream = next(iter(source.streams.audio), None)
            if stream is None:
                yield None
            elif stream.codec_context.name not in target.supported_codecs:
                codec = stream.codec_context.name
                _log.warning("%s: %s audio fits no %s file; left out.", path, codec, target.name)
                yield None
            else:
                video = next(iter(source.streams.video), None)
                offset = (video.start_time or 0) * exact(video.time_base) if video else Fraction(0)
                yield cls(source, stream, target, target.add_stream_from_template(stream), offset)

    def copy_until(self, seconds: Fraction) -> None:
        """Write the packets that begin before a time of the new file; both streams interleave."""
        while self._next is not None:
            packet = self._next
            unit = exact(packet.time_base)
            if packet.pts * unit - self._offset >= seconds:
                return
            shift = round(self._offset / unit)
            packet.pts -= shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            packet.stream = self._stream
            self._target.mux(packet)
            self._next = next(self._packets, None)


def _add_h264(container, fps: Fraction, shape: tuple[int, int, int], options: dict[str, str]):
    height, width, _ = shape
    stream = container.add_stream("libx264", rate=fps, options=options)
    stream.height, stream.width = height, width
    stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
    state_colors(stream.codec_context)
    return stream


def to_yuv(frame: np.ndarray, pixel_format: str) -> av.VideoFrame:
    """A uint8 RGB frame (height, width, 3) in the colors that `state_colors` states."""
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
        format=pixel_format,
        interpolation=SCALER,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
    )


def state_colors(codec: av.VideoCodecContext) -> None:
    """Say in the stream what its numbers mean: players guess otherwise, by the frame's size."""
    codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
    codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709

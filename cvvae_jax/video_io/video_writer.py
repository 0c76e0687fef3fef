"""Writes video files: pixels as YUV, times, display properties and sound."""

import contextlib
import errno
import os
from collections.abc import Iterator
from fractions import Fraction
from numbers import Rational
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from cvvae_jax.config.places import at_home
from cvvae_jax.errors import UserError
from cvvae_jax.resumable.files import new_beside, written_aside
from cvvae_jax.resumable.lock import take
from cvvae_jax.video_io.audio_copy import AudioCopy
from cvvae_jax.video_io.containers import (
    WRITABLE_VIDEO_SUFFIXES,
    reason,
    require_shape,
    require_suffix,
)
from cvvae_jax.video_io.display import STANDARD, Display
from cvvae_jax.video_io.images import is_image
from cvvae_jax.video_io.times import Times

_LEFT = {"out_h_chr_pos": "0", "out_v_chr_pos": "128"}  # in 1/256 of a pixel


class YuvConverter:
    """Converts uint8 RGB frames to 8 bits of BT.709 in limited range.

    In 4:2:0, chroma samples lie where H.264, VP9 and their players expect them: on the left one of
    two columns, and between two rows. By default swscale places them between the columns as well,
    which moves colors by half a pixel.
    """

    def __init__(self, height: int, width: int, pixel_format: str):
        """Set up the conversion of frames of one size to "yuv420p" or "yuv444p"."""
        self._graph = av.filter.Graph()
        source = self._graph.add(
            "buffer", video_size=f"{width}x{height}", pix_fmt="rgb24", time_base="1/1"
        )
        scale = self._graph.add(
            "scale",
            **(_LEFT if pixel_format == "yuv420p" else {}),
            out_color_matrix="bt709",
            out_range="tv",
            flags="bicubic+accurate_rnd+full_chroma_int+full_chroma_inp",
        )
        formats = self._graph.add("format", pix_fmts=pixel_format)
        sink = self._graph.add("buffersink")
        source.link_to(scale)
        scale.link_to(formats)
        formats.link_to(sink)
        self._graph.configure()

    def __call__(self, frame: np.ndarray) -> av.VideoFrame:
        """A frame, uint8 (height, width, 3), converted."""
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = 0
        self._graph.push(picture)
        return self._graph.pull()


def state_colors(codec: av.VideoCodecContext, display: Display) -> None:
    """State the colors in the stream; players would otherwise guess them from the frame's size."""
    codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
    codec.color_primaries, codec.color_trc = display.primaries, display.transfer


_ERRORS = (av.error.FFmpegError, OSError)
# MP4 with its index at the beginning, so that a player can start before it has the whole file.
# Edit lists count in units of the movie's time scale, which is milliseconds by default.
_FINISHED = {"movflags": "faststart", "movie_timescale": "90000"}
# MP4 in fragments of a second, each written at once. The header waits for the first fragment, since
# the edit list that aligns the streams is known only then. Matroska has such parts anyway.
_READABLE_WHILE_WRITTEN = {
    "movflags": "hybrid_fragmented+delay_moov",
    "use_editlist": "1",
    "movie_timescale": "90000",
    "frag_duration": "1000000",
    "cluster_time_limit": "1000",
    "flush_packets": "1",
}
_FRAGMENTED = (".mp4", ".mov")
_LONGEST_NAME = 255  # bytes


def begun_path(path: Path) -> Path:
    """The path of the incomplete file of a writer with `keep_begun`: NAME.partial.SUFFIX, with as
    much of a long NAME as a file's name may have."""
    end = f".partial{path.suffix}"
    stem = os.fsencode(path.stem)[: _LONGEST_NAME - len(os.fsencode(end))]
    return path.with_name(os.fsdecode(stem) + end)


def remove_begun(path: Path) -> None:
    """Remove the incomplete file of a writer that was killed.

    Raises:
        UserError: another writer is writing the file, or it can't be removed.
    """
    begun = begun_path(path)
    try:
        if begun.is_symlink() or not begun.is_file():
            begun.unlink(missing_ok=True)
            return
        with begun.open("rb") as opened:
            if take(opened) is False:
                raise UserError(f"{path} is being written by another process.")
            begun.unlink()
    except OSError as error:
        raise UserError(f"{begun} can't be removed: {error.strerror}.") from error


class VideoWriter:
    """Writes frames as H.264 video: `with VideoWriter(..) as writer: writer.write(frame)`.

    The file gets its name when it is complete; after an exception, or without any frame, there is
    no file, except with `keep_begun`. Colors are 4:2:0, which every player shows; frames of odd
    height or width are 4:4:4, the only format in which libx264 takes an odd size.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: Rational | float | None = None,
        times: Times | None = None,
        height: int,
        width: int,
        display: Display = STANDARD,
        audio_from: str | Path | None = None,
        crf: int = 12,
        gop: int | None = None,
        threads: int = 0,
        keep_begun: bool = False,
    ):
        """Set up a writer; the file is created on entering the context.

        Args:
            path: file to write; its suffix, one of WRITABLE_VIDEO_SUFFIXES, determines the
                container.
            fps: frames per second, for a constant rate.
            times: when each frame is shown, in place of `fps`.
            height: height of every frame, in pixels.
            width: width of every frame, in pixels.
            display: what a player has to know beside the pixels.
            audio_from: file whose sound (the audio stream that players choose) is copied unchanged
                and in step with its video: until the last frame, or to the end of the sound where
                that frame is the last one of `times`.
            crf: x264's quality, 0 (lossless) to 51.
            gop: frames from one keyframe to the next, at most; None for x264's choice.
            threads: number of the encoder's threads; 0 for x264's choice. The bytes depend on this
                number, but on nothing else of the machine.
            keep_begun: whether the frames before an exception are kept. If the process is killed,
                NAME.partial.SUFFIX holds them, without the last 40 to 70 frames, which are still
                in the encoder or in an incomplete fragment. That file must not exist before.

        Raises:
            UserError: the suffix is not accepted, or not one of `fps` and `times` is given.
        """
        if (fps is None) == (times is None):
            raise UserError("VideoWriter takes either fps or times.")
        self._path = Path(at_home(path))
        require_suffix(self._path, WRITABLE_VIDEO_SUFFIXES)
        self._keep_begun = keep_begun
        self._times = times or Times(Fraction(fps).limit_denominator(100_000))
        self._display = display
        self._shape = (height, width, 3)
        self._audio_from = audio_from
        self._options = {"crf": str(crf), "threads": str(threads)}
        self._options["x264-params"] = "cpu-independent=1"
        if gop is not None:
            self._options["g"] = str(gop)
        self._count = self.frames_kept = 0
        self._ends: dict[int, int] = {}  # of the frames in the encoder, by when they are shown
        self._delay: int | None = None  # of the encoder, from decoding to showing

    def __enter__(self):
        self._exit, self._held = contextlib.ExitStack(), contextlib.ExitStack()
        with self._named_errors():
            self._partial = self._new_file()
        return self

    def _new_file(self) -> Path:
        """A new, empty file that is written until the video is complete."""
        if not self._keep_begun:
            return new_beside(self._path)
        begun = begun_path(self._path)
        # Locked until it has its name, so that nobody takes it for one that a killed writer left.
        if take(self._held.enter_context(begun.open("xb"))) is False:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        return begun

    def _start(self) -> None:
        """Open the container; only for a first frame, since FFmpeg may crash when it closes an
        empty container."""
        with self._named_errors():
            options = _READABLE_WHILE_WRITTEN if self._keep_begun else _FINISHED
            self._container = self._exit.enter_context(
                av.open(str(self._partial), "w", container_options=options)
            )
            self._stream = self._add_h264()
            self._convert = YuvConverter(*self._shape[:2], self._stream.pix_fmt)
            self._audio = None
            if self._audio_from is not None and not is_image(self._audio_from):
                self._audio = self._exit.enter_context(
                    AudioCopy.open(self._audio_from, self._container, video_start=self._times.start)
                )
            self._container.start_encoding()

    def _add_h264(self):
        height, width, _ = self._shape
        stream = self._container.add_stream("libx264", rate=self._times.rate, options=self._options)
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        codec = stream.codec_context
        codec.time_base, codec.framerate = self._times.clock, self._times.rate
        stream.sample_aspect_ratio = self._display.pixel_aspect
        codec.sample_aspect_ratio = self._display.pixel_aspect
        state_colors(codec, self._display)
        return stream

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except _ERRORS as error:
            raise UserError(f"{self._path} cannot be written: {reason(error)}.") from error

    def write(self, frame: np.ndarray) -> None:
        """Append a uint8 frame (height, width, 3) of the size given to the constructor.

        Raises:
            UserError: the frame has another size, or the file cannot be written (a full disk).
        """
        require_shape(self._path, frame.shape, self._shape)
        if self._count == 0:
            self._start()
        picture = self._convert(frame)
        picture.pts, picture.time_base = self._times.ticks_of(self._count), self._times.clock
        self._count += 1
        self._ends[picture.pts] = self._times.ticks_of(self._count)
        with self._named_errors():
            self._mux(self._stream.encode(picture))
            if self._audio:
                self._audio.copy_until(self._end)

    @property
    def _end(self) -> Fraction:
        """When the last frame so far ends, in seconds."""
        return self._times.start + self._times.at(self._count)

    def _mux(self, packets: list[av.Packet], *, are_last: bool = False) -> None:
        """Write packets of the video, with the duration of each frame."""
        for packet in packets:
            if self._delay is None:
                self._delay = packet.pts - packet.dts
            packet.duration = self._ends.pop(packet.pts) - packet.pts
            if are_last and packet is packets[-1]:
                packet.duration = self._duration_of_last(packet)
            self._container.mux(packet)

    def _duration_of_last(self, packet: av.Packet) -> int:
        """Duration of the last packet: the time until the video ends, since MP4 adds up the
        durations of packets in decoding order."""
        end = self._times.ticks_of(self._count)
        return max(1, min(end - packet.pts, end - packet.dts - self._delay))

    @property
    def begun(self) -> Path | None:
        """The incomplete file, where `keep_begun` could not rename it."""
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
            raise UserError(f"{self._path} was not written: there was no frame to write.")
        with self._named_errors():
            self._mux(self._stream.encode(), are_last=True)
            if self._audio and self._times.count == self._count:
                self._audio.copy_until(None)
            self._exit.close()
            if self._keep_begun and self._path.suffix.lower() in _FRAGMENTED:
                _join_fragments(self._partial, self._path)
                self._partial.unlink()
            else:
                os.replace(self._partial, self._path)
        self.frames_kept = self._count

    def _discard(self) -> None:
        """Close the container and remove the unfinished file, unless it is kept."""
        try:
            # Closing writes the rest, which fails again on a full disk; the first error is raised.
            with contextlib.suppress(*_ERRORS):
                self._exit.close()
        finally:
            if self.begun is None:
                self._partial.unlink(missing_ok=True)
            self._held.close()


def _join_fragments(fragments: Path, path: Path) -> None:
    """Write a fragmented MP4 again without fragments."""
    with (
        written_aside(path) as whole,
        av.open(str(fragments)) as source,
        av.open(str(whole), "w", container_options=_FINISHED) as target,
    ):
        copies = [target.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                target.mux(packet)

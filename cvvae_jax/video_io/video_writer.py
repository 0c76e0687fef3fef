"""Video files in the making: pixels to YUV, times, display and sound."""

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

    Where chroma is halved (4:2:0), its samples lie as H.264, VP9 and their players take them: on
    the left one of two columns, and between two rows. Left to itself, swscale computes them between
    the columns too, and colors move by half a pixel.
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
    """Say in the stream what its numbers mean: players guess otherwise, by the frame's size."""
    codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
    codec.color_primaries, codec.color_trc = display.primaries, display.transfer


_ERRORS = (av.error.FFmpegError, OSError)
# MP4 with what a player has to know at the beginning, so that it starts before it has all.
# Edit lists count in units of the movie, which has milliseconds otherwise.
_FINISHED = {"movflags": "faststart", "movie_timescale": "90000"}
# MP4 in fragments of a second, each of which reaches the file at once. Its first part waits for the
# first fragment, since only then the edit list is known that has all streams begin in step.
# Matroska has such parts anyway.
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
    """Where a writer that is to keep what was begun has it until the file is complete:
    NAME.partial.SUFFIX, of a long NAME as much as a file's name may have."""
    end = f".partial{path.suffix}"
    stem = os.fsencode(path.stem)[: _LONGEST_NAME - len(os.fsencode(end))]
    return path.with_name(os.fsdecode(stem) + end)


def remove_begun(path: Path) -> None:
    """Removes what a writer that was killed has begun.

    Raises:
        UserError: another writer is at work on it, or it can't be removed.
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
    none, unless it is to `keep_begun`. Colors are 4:2:0, which every player shows; frames of odd
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
            path: file to write; its suffix, one of WRITABLE_VIDEO_SUFFIXES, chooses the container.
            fps: frames per second, where all frames are shown for the same time.
            times: when each frame is shown, in place of `fps`.
            height: of every frame, in pixels.
            width: of every frame, in pixels.
            display: what a player has to know beside the pixels.
            audio_from: file whose sound, that of its audio stream which players choose, is copied
                as it is and in step with its video: until the last frame, or, where `times` says
                that it was the last one, to its end.
            crf: x264's quality, 0 (lossless) to 51.
            gop: frames from one keyframe to the next, at most; None for x264's choice.
            threads: of the encoder; 0 for one or more a core. The bytes depend on their number,
                and on nothing else of the machine.
            keep_begun: after an exception the file holds the frames until then; after the process
                was killed, NAME.partial.SUFFIX beside it does, but for the last 40 to 70, which the
                encoder looks at together or which wait for the end of a fragment of a second. Such
                a file must not be there before.

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
        """An empty file to write until the video is complete, at a path where nothing is yet."""
        if not self._keep_begun:
            return new_beside(self._path)
        begun = begun_path(self._path)
        # Locked until it has its name, so that nobody takes it for one that a killed writer left.
        if take(self._held.enter_context(begun.open("xb"))) is False:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        return begun

    def _start(self) -> None:
        """Open the container; only for a first frame, since FFmpeg may crash in closing one that
        nothing came into."""
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
        """When the last frame so far is no longer shown."""
        return self._times.start + self._times.at(self._count)

    def _mux(self, packets: list[av.Packet], *, are_last: bool = False) -> None:
        """Write packets of the video, each of which says how long its frame is shown."""
        for packet in packets:
            if self._delay is None:
                self._delay = packet.pts - packet.dts
            packet.duration = self._ends.pop(packet.pts) - packet.pts
            if are_last and packet is packets[-1]:
                packet.duration = self._duration_of_last(packet)
            self._container.mux(packet)

    def _duration_of_last(self, packet: av.Packet) -> int:
        """How long the last packet lasts: what is left until the video ends, as MP4 adds up the
        durations of packets in the order of decoding."""
        end = self._times.ticks_of(self._count)
        return max(1, min(end - packet.pts, end - packet.dts - self._delay))

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
        """Close what is open and remove the unfinished file, unless it is to be kept."""
        try:
            # Closing writes the rest, which fails again on a full disk; the first error is told.
            with contextlib.suppress(*_ERRORS):
                self._exit.close()
        finally:
            if self.begun is None:
                self._partial.unlink(missing_ok=True)
            self._held.close()


def _join_fragments(fragments: Path, path: Path) -> None:
    """Make an MP4 in a piece of one in fragments."""
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

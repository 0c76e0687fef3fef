"""How all code reads a video file: which stream is the video, which packets are frames, when a file
is damaged, and which way up its frames are."""

import contextlib
import functools
import io
import logging
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition

from cvvae_jax.errors import UserError
from cvvae_jax.video_io.containers import (
    SCALER,
    exact,
    open_container,
    reason,
    require_file,
    require_pixels,
    require_shape,
    resized,
)
from cvvae_jax.video_io.cut_off import is_cut_off
from cvvae_jax.video_io.display import Display, is_transposed, upright
from cvvae_jax.video_io.media_types import Blob, MediaFile

_log = logging.getLogger(__name__)

_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
# Codecs in which each packet is a frame. Other codecs have packets without a visible frame (hidden
# frames of VP8, packed MPEG-4 in AVI) or with several.
_ONE_FRAME_A_PACKET = ("h264", "hevc", "vp9", "av1", "mjpeg", "prores", "ffv1", "png", "gif")
# The MatrixCoefficients of ITU-T H.273 that swscale converts: RGB, BT.709, unspecified, FCC, BT.601
# (two numbers), SMPTE 240M and BT.2020 with non-constant luminance.
_CONVERTED = (0, 1, 2, 4, 5, 6, 7, 9)
_PROGRESSIVE = (0, 1)  # FFmpeg's AVFieldOrder: unknown, progressive
_UNSTATED_COLORS = (0, 2)  # of ITU-T H.273: reserved, unspecified


class OpenVideo:
    """The video stream of an open file."""

    def __init__(self, file: MediaFile, container: av.container.InputContainer, stream):
        """Set up a video; called by `open_video`."""
        self.file, self.container, self.stream = file, container, stream
        self._size: tuple[int, int] | None = None
        self._threads = "NONE"
        self._begin(None)

    def _begin(self, first_pts: int | None) -> None:
        """Start at the first keyframe, with its presentation time; None where it is unknown."""
        self._has_times = first_pts is not None
        self._before_packets, self._before_frames = _Before(first_pts), _Before(first_pts)

    @property
    def rate(self) -> Fraction | None:
        """Average frames per second as the file states them; None where it doesn't."""
        return exact(self.stream.average_rate) or exact(self.stream.guessed_rate)

    def display(self, frame: av.VideoFrame) -> Display:
        """What a player has to know to show the video, from the stream and its first frame. Colors
        that are not stated are taken for BT.709."""
        aspect = exact(self.stream.sample_aspect_ratio) or Fraction(1)
        colors = {"primaries": int(frame.color_primaries), "transfer": int(frame.color_trc)}
        stated = {name: code for name, code in colors.items() if code not in _UNSTATED_COLORS}
        return Display(1 / aspect if is_transposed(frame) else aspect, **stated)

    @property
    def has_frames_for_packets(self) -> bool:
        """Whether each packet is a frame. Interlaced H.264 may have two packets for a frame, one
        for each field."""
        codec = self.stream.codec_context
        is_interlaced = codec.name == "h264" and codec.field_order not in _PROGRESSIVE
        return codec.name in _ONE_FRAME_A_PACKET and not is_interlaced

    @property
    def has_presentation_times(self) -> bool:
        """Whether packets say when their frame is shown. AVI says when each is decoded, which
        differs where frames refer to later ones."""
        return self.container.format.name != "avi" or not self.stream.codec_context.has_b_frames

    def packets(self) -> Iterator[av.Packet]:
        """The packets with frames, as `_with_frames` chooses them.

        Raises:
            UserError: after the last packet, if the file was cut off. A demuxer takes the end
                of such a file for the end of the video.
        """
        count = 0

        def counted() -> Iterator[av.Packet]:
            nonlocal count
            for packet in self.container.demux(self.stream):
                # PyAV's last packet is not in the file: it tells a decoder that this is the end.
                count += packet.size > 0 or packet.dts is not None
                yield packet

        yield from self._with_frames(counted())
        if count < len(self.stream.index_entries) or self._is_cut_off(count):
            raise UserError(f"{self.file} ends early: it was cut off.")

    def _with_frames(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """The packets from the first keyframe on; all packets where none is marked as a keyframe.

        Packets before the first keyframe can't be decoded. Packets without data are left out: they
        repeat a frame, but a decoder would take them for the end.
        """
        before: list[av.Packet] | None = []
        for packet in packets:
            if not packet.size:
                continue
            if before is not None and not packet.is_keyframe:
                before.append(packet)
                continue
            if before is not None:
                before = None
                self._begin(packet.pts)
            yield packet
        yield from before or ()

    def is_shown(self, item: av.Packet | av.VideoFrame) -> bool:
        """Whether the frame of a packet, or a decoded frame, belongs to the video. Must be called
        for all packets or frames in order.

        An edit list hides frames that are needed only to decode others. In a file cut out of a
        longer one, frames shown before the first keyframe need frames that the file doesn't have.
        """
        if isinstance(item, av.VideoFrame):
            return not self._before_frames.holds(item.pts)
        return not self._before_packets.holds(item.pts) and not item.is_discard

    def _is_due(self, item: av.Packet | av.VideoFrame) -> bool:
        """Whether a frame counts in the comparison of decoded frames with packets, which finds
        missing ones. A frame without a time in a video with times doesn't: it may lie before the
        first keyframe."""
        return not self._has_times or item.pts is not None or not self.has_presentation_times

    def frames(self, *, threads: str = "AUTO") -> Iterator[av.VideoFrame]:
        """All frames in presentation order.

        Args:
            threads: the decoder's threading: "AUTO", or "NONE" where other files are decoded at the
                same time.

        Raises:
            UserError: the file is damaged or was cut off; earlier frames have been yielded.
        """
        self.stream.thread_type = self._threads = threads
        missing = 0

        def counted() -> Iterator[av.Packet]:
            nonlocal missing
            for packet in self.packets():
                missing += self.is_shown(packet) and self._is_due(packet)
                yield packet

        for frame in self._decode(counted()):
            if self.is_shown(frame):
                missing -= self._is_due(frame)
                self.require_usable(frame)
                yield frame
        if self.has_frames_for_packets and missing > 0:
            raise UserError(f"{self.file} is damaged: {missing} of its frames can't be decoded.")

    def frames_from(self, keyframe: int) -> Iterator[av.VideoFrame]:
        """Frames in presentation order from a keyframe on, including corrupt ones.

        Args:
            keyframe: presentation time of the keyframe, in units of the stream's time base.

        Raises:
            UserError: a packet can't be decoded.
        """
        self.stream.thread_type = "NONE"  # clips are decoded side by side
        self.container.seek(keyframe, stream=self.stream)
        yield from self._decode(self._with_frames(self.container.demux(self.stream)))

    def require_usable(self, frame: av.VideoFrame) -> None:
        """Raise UserError where a frame is partly damaged, differs in size from the frames before,
        or has colors that can't be converted."""
        if frame.is_corrupt:
            raise UserError(f"{self.file} is damaged: a frame of it could be decoded only in part.")
        if frame.colorspace not in _CONVERTED:
            raise UserError(
                f"{self.file} has colors with the matrix {int(frame.colorspace)} of ITU-T H.273, "
                "which cannot be converted to RGB."
            )
        size = upright_size(frame)
        self._size = self._size or size
        require_shape(self.file, size, self._size)

    def await_threads(self) -> None:
        """Let the decoder's threads finish their work where reading was abandoned.

        If a program has PyAV pass on FFmpeg's log, these threads need the interpreter's lock for
        it, and closing the decoder waits for them while it holds the lock: forever.
        """
        if self._threads != "NONE":
            with contextlib.suppress(av.error.FFmpegError):
                self.stream.decode(None)

    def _decode(self, packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
        """Decoded frames; an error is raised after the frames that the decoder still holds."""
        fault = None
        try:
            for packet in packets:
                yield from self.stream.decode(packet)
        except av.error.FFmpegError as error:
            fault = UserError(f"{self.file} is damaged: {reason(error)}.")
            fault.__cause__ = error
        except UserError as error:
            fault = error
        with contextlib.suppress(*([av.error.FFmpegError] if fault else [])):
            yield from self.stream.decode(None)
        if fault:
            raise fault

    def _is_cut_off(self, count: int) -> bool:
        """Whether the sizes that the file states say so, after `count` packets were read."""
        demuxer = self.container.format.name.split(",")[0]
        # AVI states sizes and numbers of frames that are wrong: only both together are believed.
        if demuxer == "avi" and count >= self.stream.frames:
            return False
        if isinstance(self.file, Blob):
            return is_cut_off(io.BytesIO(self.file.data), demuxer)
        with open(self.file, "rb") as data:
            return is_cut_off(data, demuxer)


class _Before:
    """Tells which packets or frames are shown before the first keyframe.

    Only those up to the first one shown after the keyframe can be. Later times don't matter: in
    files that were appended to one another, times begin anew.
    """

    def __init__(self, first_pts: int | None):
        self._first, self._is_over = first_pts, first_pts is None

    def holds(self, pts: int | None) -> bool:
        """Whether the next item is shown before the keyframe, by its presentation time."""
        if self._is_over or pts is None:
            return False
        self._is_over = pts > self._first
        return pts < self._first


@contextlib.contextmanager
def open_video(file: MediaFile) -> Iterator[OpenVideo]:
    """A video file, open for reading.

    Raises:
        UserError: the file holds no video, its frames are too large, or FFmpeg fails on it.
    """
    file = require_file(file)
    with open_container(file) as container:
        stream = _video_stream(container, file)
        require_pixels(file, stream.height or 0, stream.width or 0)
        video = OpenVideo(file, container, stream)
        try:
            yield video
        except av.error.FFmpegError as error:
            raise UserError(f"{file} is damaged: {reason(error)}.") from error
        finally:
            video.await_threads()


def _video_stream(container, file: MediaFile):
    """The video stream of a file; a warning names it where there are several."""
    chosen = shown_video(container)
    if chosen is None:
        raise UserError(f"{file} holds {_instead_of_video(container)}.")
    others = len(_videos(container)) - 1
    if others:
        _say_choice(str(file), others + 1, chosen.index, f"{chosen.width}x{chosen.height}")
    return chosen


def shown_video(container):
    """The stream that a player shows: of the default streams, or of all, the largest one, and the
    first of equally large ones; None where there is no video."""
    videos = _videos(container)
    area = {s.index: (s.width or 0) * (s.height or 0) for s in videos}
    is_default = {s.index: bool(s.disposition & Disposition.default) for s in videos}
    return max(videos, key=lambda s: (is_default[s.index], area[s.index]), default=None)


def played_sound(container):
    """The audio stream that a player plays with `shown_video`, from the same program where there
    are several (MPEG-TS); None where there is no audio."""
    return container.streams.best("audio", related=shown_video(container))


def _videos(container) -> list:
    return [
        stream
        for stream in container.streams.video
        if not stream.disposition & _PICTURES and stream.codec_context is not None
    ]


def _instead_of_video(container) -> str:
    streams = container.streams.video
    if any(not stream.disposition & _PICTURES for stream in streams):
        return "a video in a format that FFmpeg doesn't know"
    return "only attached pictures, and no video stream" if streams else "no video stream"


@functools.lru_cache(maxsize=1024)
def _say_choice(file: str, count: int, number: int, size: str) -> None:
    """Warns once for a file, however often it is opened."""
    _log.warning("%s holds %d videos; stream %d (%s) is read.", file, count, number, size)


def to_rgb(
    frame: av.VideoFrame, *, short_side: int | None = None, cover: tuple[int, int] | None = None
) -> np.ndarray:
    """A decoded frame as an upright uint8 array (height, width, 3), resized as by `resized`.

    A frame is scaled before it is converted, so that fewer pixels are converted.
    """
    stored_cover = cover[::-1] if cover and is_transposed(frame) else cover
    height, width = resized(frame.height, frame.width, short_side=short_side, cover=stored_cover)
    rgb = frame.reformat(
        width=width,
        height=height,
        format="rgb24",
        interpolation=SCALER,
        src_color_range=frame.color_range,
        threads=1,
    )
    return upright(rgb.to_ndarray(), frame)


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width of a frame after the rotation by its display matrix."""
    size = frame.height, frame.width
    return size[::-1] if is_transposed(frame) else size

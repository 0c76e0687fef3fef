"""Copies the sound of one file into another, packet by packet, without decoding it."""

import contextlib
import io
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from cvvae_jax.video_io.containers import exact, open_container
from cvvae_jax.video_io.decoding import played_sound, shown_video
from cvvae_jax.video_io.frame_index import frame_index
from cvvae_jax.video_io.times import Continued

_log = logging.getLogger(__name__)

# Decoders need some packets before the first sound that is heard: Opus needs 80 ms of them. MP4 and
# QuickTime mark them in an edit list as not heard; Matroska can do so only for Opus's own delay.
_BEFORE = Fraction(1, 10)
_OPUS_DELAY = Fraction(312, 48000) + Fraction(1, 1000)  # and a rounded time stamp
_WITH_EDIT_LISTS = ("mp4", "mov")


class AudioCopy:
    """Copies the packets of an audio stream into a container that is being written."""

    def __init__(self, packets: Iterator[av.Packet], target, stream, offset: Fraction):
        """Set up a copy; called by `open`."""
        self._packets, self._target, self._stream = packets, target, stream
        self._offset, self._has_edit_lists = offset, target.format.name in _WITH_EDIT_LISTS
        self._continued: Continued | None = None
        self._last_dts: int | None = None
        self._is_heard = False
        self._next = self._following()

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, path: str | Path, target, *, video_start: Fraction
    ) -> Iterator["AudioCopy | None"]:
        """A copier; None where there is no sound, or the container cannot hold its codec.

        Args:
            path: the file with the sound, which stays in step with the file's video, if any.
            target: the container to write.
            video_start: when the target shows the first frame of that video, in seconds.
        """
        with open_container(Path(path)) as source:
            stream = played_sound(source)
            if stream is None:
                yield None
            elif not _fits(stream, target):
                codec = "unknown" if stream.codec_context is None else stream.codec_context.name
                _log.warning("%s: %s audio fits no %s file; left out.", path, codec, target.name)
                yield None
            else:
                has_video = shown_video(source) is not None
                offset = frame_index(Path(path)).first - video_start if has_video else 0
                copied = target.add_stream_from_template(stream)
                yield cls(_packets(source, stream, target), target, copied, Fraction(offset))

    def copy_until(self, seconds: Fraction | None) -> None:
        """Write the packets that begin before a time of the new file, or all for None; called
        repeatedly, so that sound and video interleave."""
        while self._next is not None:
            packet = self._next
            if seconds is not None and self._time(packet) >= seconds:
                return
            self._place(packet)
            self._target.mux(packet)
            self._next = self._following()

    def _place(self, packet: av.Packet) -> None:
        """Give a packet its times in the new file. Its decoding times must rise, which they don't
        where the old file rounded them to milliseconds."""
        unit = exact(self._stream.time_base)
        scale = exact(packet.time_base) / unit
        pts, dts = (round(time * scale - self._offset / unit) for time in (packet.pts, packet.dts))
        if self._last_dts is not None:
            dts = max(dts, self._last_dts + self._has_edit_lists)  # Matroska takes equal ones
        packet.pts, packet.dts, self._last_dts = max(pts, dts), dts, dts
        packet.duration = round((packet.duration or 0) * scale)
        packet.time_base, packet.stream = unit, self._stream

    def _following(self) -> av.Packet | None:
        """The next packet that is heard, or that a decoder needs before the first such packet."""
        for packet in self._packets:
            # An edit list may also leave out sound between two pieces.
            is_left_out = packet.is_discard and self._is_heard
            if packet.pts is None or is_left_out:
                continue
            self._is_heard = not packet.is_discard
            if self._is_needed(self._continuing(packet)):
                return packet
        return None

    def _continuing(self, packet: av.Packet) -> av.Packet:
        """A packet whose times go on from the packet before, also in files that were appended."""
        if self._continued is None:
            self._continued = Continued(exact(packet.time_base))
        packet.dts = packet.pts if packet.dts is None else packet.dts
        self._continued.take(packet.dts, packet.duration or 0)
        packet.pts += self._continued.shift
        packet.dts += self._continued.shift
        return packet

    def _is_needed(self, packet: av.Packet) -> bool:
        start = self._time(packet)
        if self._has_edit_lists:
            end = start + (packet.duration or 0) * exact(packet.time_base)
            return end > -_BEFORE
        is_opus = self._stream.codec_context.name == "opus"
        return start >= (-_OPUS_DELAY if is_opus else 0)

    def _time(self, packet: av.Packet) -> Fraction:
        return packet.pts * exact(packet.time_base) - self._offset


def _fits(stream, target) -> bool:
    """Whether a container can hold the sound of a stream."""
    if stream.codec_context is None or stream.codec_context.name not in target.supported_codecs:
        return False
    # The list has codecs that other versions of the container hold: only a trial is reliable.
    with av.open(io.BytesIO(), "w", format=target.format.name) as trial:
        trial.add_stream_from_template(stream)
        try:
            trial.start_encoding()
        except av.error.FFmpegError:
            return False
    return True


def _packets(source, stream, target) -> Iterator[av.Packet]:
    """The packets of a stream in the form that the container needs."""
    packets = source.demux(stream)
    codec = stream.codec_context
    if codec.name != "aac" or codec.extradata or target.format.name not in _WITH_EDIT_LISTS:
        return packets
    # Broadcast AAC has a header in every packet; FFmpeg removes the headers by itself, except for
    # fragmented MP4.
    strip = av.bitstream.BitStreamFilterContext("aac_adtstoasc", stream)
    return (out for packet in packets for out in strip.filter(packet if packet.size else None))

"""Sound of one file into another, packet by packet, as it is."""

import contextlib
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from cvvae_jax.data.containers import exact, open_container
from cvvae_jax.data.frame_index import frame_index

_log = logging.getLogger(__name__)

# Decoders need some packets before the first sound that is heard: Opus those of 80 ms. The family
# of MP4 says in an edit list that they are not heard; Matroska can only say so of Opus's own delay.
_BEFORE = Fraction(1, 10)
_OPUS_DELAY = Fraction(312, 48000) + Fraction(1, 1000)  # and a rounded time stamp
_WITH_EDIT_LISTS = ("mp4", "mov")


class AudioCopy:
    """Copies the packets of an audio stream into a container that is being written."""

    def __init__(self, packets: Iterator[av.Packet], target, stream, offset: Fraction):
        """Set up a copy; `open` finds the arguments."""
        self._packets, self._target, self._stream = packets, target, stream
        self._offset, self._has_edit_lists = offset, target.format.name in _WITH_EDIT_LISTS
        self._next = self._following()

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, path: str | Path, target, *, video_start: Fraction
    ) -> Iterator["AudioCopy | None"]:
        """The copier; None where there is no sound, or the container cannot hold its codec.

        Args:
            path: a file whose sound stays in step with its video, if it has one.
            target: the container.
            video_start: when the target shows that video's first frame, in seconds.
        """
        with open_container(Path(path)) as source:
            stream = source.streams.best("audio")
            if stream is None:
                yield None
            elif stream.codec_context.name not in target.supported_codecs:
                codec = stream.codec_context.name
                _log.warning("%s: %s audio fits no %s file; left out.", path, codec, target.name)
                yield None
            else:
                offset = frame_index(Path(path)).first - video_start if source.streams.video else 0
                copied = target.add_stream_from_template(stream)
                yield cls(_packets(source, stream, target), target, copied, Fraction(offset))

    def copy_until(self, seconds: Fraction | None) -> None:
        """Write the packets that begin before a time of the new file, or all; both streams
        interleave."""
        while self._next is not None:
            packet = self._next
            if seconds is not None and self._time(packet) >= seconds:
                return
            shift = round(self._offset / exact(packet.time_base))
            packet.pts -= shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            packet.stream = self._stream
            self._target.mux(packet)
            self._next = self._following()

    def _following(self) -> av.Packet | None:
        """The next packet that is heard, or that a decoder needs for one that is."""
        known = (packet for packet in self._packets if packet.pts is not None)
        return next((packet for packet in known if self._is_needed(packet)), None)

    def _is_needed(self, packet: av.Packet) -> bool:
        start = self._time(packet)
        if self._has_edit_lists:
            end = start + (packet.duration or 0) * exact(packet.time_base)
            return end > -_BEFORE
        is_opus = self._stream.codec_context.name == "opus"
        return start >= (-_OPUS_DELAY if is_opus else 0)

    def _time(self, packet: av.Packet) -> Fraction:
        return packet.pts * exact(packet.time_base) - self._offset


def _packets(source, stream, target) -> Iterator[av.Packet]:
    """The packets of a stream, as the container takes them."""
    packets = source.demux(stream)
    codec = stream.codec_context
    if codec.name != "aac" or codec.extradata or target.format.name not in _WITH_EDIT_LISTS:
        return packets
    # AAC as it is broadcast has a header in every packet; FFmpeg takes them off by itself, but not
    # for MP4 in fragments.
    strip = av.bitstream.BitStreamFilterContext("aac_adtstoasc", stream)
    return (out for packet in packets for out in strip.filter(packet if packet.size else None))

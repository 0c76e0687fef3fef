"""The frames of a video file by number: how many there are, and when each is shown."""

import dataclasses
import functools
import weakref
from fractions import Fraction
from pathlib import Path

import numpy as np

from cvvae_jax.errors import UserError
from cvvae_jax.video_io.containers import exact, require_file
from cvvae_jax.video_io.decoding import OpenVideo, open_video, played_sound
from cvvae_jax.video_io.images import is_image
from cvvae_jax.video_io.media_types import Blob, Frames, Media, MediaFile
from cvvae_jax.video_io.times import Continued, Times

# Frames per second of a file that states neither times nor a rate.
_USUAL_FPS = Fraction(25)


@dataclasses.dataclass(frozen=True)
class FrameIndex:
    """Presentation times of a video's frames and keyframes, sorted, in units of its time base."""

    count: int
    """Number of frames."""
    ticks: np.ndarray
    """int64 (count,): presentation times; shorter where some frames have none."""
    keyframes: np.ndarray
    """int64 (keyframes,): presentation times at which a decoder can begin."""
    times: Times
    """When each frame is shown."""
    first: Fraction
    """Presentation time of the first frame in the file, in seconds."""
    fault: str | None
    """Why the file ends early, or None. The other fields describe the frames before that."""

    @property
    def seekable(self) -> bool:
        """Whether the time of a frame identifies it."""
        return len(np.unique(self.ticks)) == self.count and len(self.keyframes) > 0


def count_frames(media: str | Media) -> int:
    """Exact number of frames, found by reading a file, usually without decoding it; 1 for an image.

    A process caches the answers for recent files.

    Raises:
        UserError: there is no such file, it is not a video, or it was cut off.
    """
    if isinstance(media, Frames):
        return len(media.array)
    return 1 if is_image(media) else whole_index(media).count


def frame_times(media: str | Media) -> np.ndarray:
    """When each frame is shown, in seconds from the first one on: float64 (frames,).

    Raises:
        UserError: as `count_frames`.
    """
    if isinstance(media, Frames):
        return np.arange(len(media.array)) / media.fps
    if is_image(media):
        return np.zeros(1)
    index = whole_index(media)
    if index.times.ticks is None:
        return np.arange(index.count) / float(index.times.rate)
    return np.asarray(index.times.ticks) * float(index.times.unit)


def read_times(file: MediaFile) -> Times:
    """When the frames of a video are shown; of a file that was cut off, the frames that exist.

    Raises:
        UserError: there is no such file, or it is not a video.
    """
    return Times(Fraction(1)) if is_image(file) else frame_index(file).times


def whole_index(file: MediaFile) -> FrameIndex:
    """The index of a file that must be complete.

    Raises:
        UserError: there is no such file, it is not a video, or it was cut off.
    """
    index = frame_index(file)
    if index.fault:
        raise UserError(index.fault)
    return index


_indexes: weakref.WeakKeyDictionary[Blob, FrameIndex] = weakref.WeakKeyDictionary()


def frame_index(file: MediaFile) -> FrameIndex:
    """The index of a file that may have been cut off; `fault` says so.

    Raises:
        UserError: there is no such file, or it is not a video.
    """
    if isinstance(file, Blob):
        if file not in _indexes:
            _indexes[file] = _scan(file)
        return _indexes[file]
    path = require_file(file)
    stat = path.stat()
    return _scan_once(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1024)
def _scan_once(path: Path, mtime_ns: int, size: int) -> FrameIndex:
    """The index of a file, cached until the file changes."""
    return _scan(path)


class _FrameList:
    """The frames of a video as they are read: `times`, (ticks or None, duration) of each frame;
    `keyframes`, by their ticks; and `fault`, the error that ended the reading, or None."""

    def __init__(self, video: OpenVideo, *, decode: bool):
        """Read an open video to its end, by its packets or by decoding it."""
        self.times, self.keyframes, self.fault = [], [], None
        read = _frames if decode else _shown_packets
        continued = Continued(exact(video.stream.time_base))
        try:
            for order, ticks, duration, is_key in read(video):
                if order is not None:
                    continued.take(order, duration or 0)
                ticks = None if ticks is None else ticks + continued.shift
                self.times.append((ticks, duration or 0))
                if is_key and ticks is not None and video.has_presentation_times:
                    self.keyframes.append(ticks)
        except UserError as error:
            self.fault = str(error)
        is_reordered = bool(video.stream.codec_context.has_b_frames) and not decode
        known = [ticks for ticks, _ in self.times if ticks is not None]
        if continued.shift or not (is_reordered or known == sorted(known)):
            self.keyframes = []  # the times in the file don't identify frames

    @property
    def has_gaps(self) -> bool:
        """Whether some frames have a time and others have none."""
        return len({ticks is None for ticks, _ in self.times}) == 2

    def fill(self, step: int) -> None:
        """Interpolate the times of frames without one from their neighbors; before the first and
        after the last known time, frames are `step` apart."""
        known = {n: ticks for n, (ticks, _) in enumerate(self.times) if ticks is not None}
        numbers, ticks = list(known), list(known.values())
        first, last = numbers[0], numbers[-1]
        for n, (time, duration) in enumerate(self.times):
            if time is None:
                beyond = min(n - first, 0) + max(n - last, 0)
                time = round(float(np.interp(n, numbers, ticks))) + beyond * step
                self.times[n] = time, duration
        self.keyframes = []


def _scan(file: MediaFile) -> FrameIndex:
    with open_video(file) as video:
        row = _FrameList(video, decode=not video.has_frames_for_packets)
        unit, sound = exact(video.stream.time_base), _sound_start(video)
        stated = (video.rate, exact(video.stream.guessed_rate))
        is_timed = video.has_presentation_times
    if is_timed and row.has_gaps:
        with open_video(file) as video:  # only frames are in the order in which they are shown
            row = _FrameList(video, decode=True)
    rate = stated[0] or _USUAL_FPS
    if is_timed and row.has_gaps:
        row.fill(round(1 / (rate * unit)))
    if not row.times:
        raise UserError(row.fault or f"{file} holds no frame that can be decoded.")
    known = sorted(item for item in row.times if item[0] is not None)
    count, ticks = len(row.times), np.array([time for time, _ in known], np.int64)
    first = int(ticks[0]) * unit if known else Fraction(0)
    if len(ticks) < count:
        times = Times(rate, count=count)
    else:
        start = first - _beginning(first, sound)
        times = Times.of(_rising(ticks), unit, start=start, stated=stated, last=known[-1][1])
    keyframes = np.sort(row.keyframes).astype(np.int64)
    return FrameIndex(count, ticks, keyframes, times, first, row.fault)


def _rising(ticks: np.ndarray) -> np.ndarray:
    """Sorted times, with equal ones moved apart by the smallest possible steps."""
    steps = np.arange(len(ticks))
    return np.maximum.accumulate(ticks - steps) + steps


def _shown_packets(video: OpenVideo):
    """Tuples of a time that rises with the packets, presentation time, duration, and whether the
    packet is a keyframe, one for every shown frame."""
    shown = filter(video.is_shown, video.packets())
    if video.has_presentation_times:
        return ((p.dts, p.pts, p.duration, p.is_keyframe) for p in shown)
    # Sorted, the times of decoding are those of showing.
    return ((p.dts, p.dts, p.duration, p.is_keyframe) for p in shown)


def _frames(video: OpenVideo):
    """The tuples of `_shown_packets`, by decoding: for codecs whose packets are not frames."""
    return ((f.pts, f.pts, f.duration, f.key_frame) for f in video.frames(threads="NONE"))


def _sound_start(video: OpenVideo) -> Fraction | None:
    stream = played_sound(video.container)
    if stream is None or stream.start_time is None:
        return None
    return stream.start_time * exact(stream.time_base)


def _beginning(first_frame: Fraction, sound: Fraction | None) -> Fraction:
    """When a player begins to show a file: at the first picture or sound. Only decoders need what a
    stream has before 0."""
    if sound is None:
        return first_frame
    return max(min(first_frame, sound), min(first_frame, Fraction(0)))

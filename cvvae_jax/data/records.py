"""From a medium to a record: a random clip with a seed; and the fixed clips of an evaluation.

A medium that can't be decoded is replaced by another one of the source, always by the same one. So
every batch keeps its size, and no process waits for another. Workers are processes of their own, so
the batches themselves tell the main process which files were bad.
"""

import itertools
import logging
import math
from collections.abc import Callable, Iterator

import grain
import numpy as np

from cvvae_jax.config import Bucket, DataConfig
from cvvae_jax.data.colors import recolored
from cvvae_jax.data.sources import Source
from cvvae_jax.errors import UserError, visible
from cvvae_jax.video_io.containers import one_line
from cvvae_jax.video_io.frame_index import frame_times
from cvvae_jax.video_io.images import is_image
from cvvae_jax.video_io.media_types import Frames, Media
from cvvae_jax.video_io.video import read_clip

Record = dict[str, np.ndarray | np.uint32 | np.str_]
"""An element of a dataset: "video", uint8 (frames, height, width, 3); "seed", uint32; and "bad", a
line with name, tab and reason for each bad medium that this record replaces."""

# After this many bad files in a row the source itself is taken for bad.
_ATTEMPTS = 20
# The share of bad records is judged only after this many records.
_ENOUGH = 200
_LONGEST_REASON = 500

_log = logging.getLogger(__name__)


class RandomRecord(grain.transforms.RandomMap):
    """Grain's transform from the number of a medium to a record; all randomness comes from the
    generator that Grain gives the record."""

    def __init__(self, source: Source, *, bucket: Bucket, data: DataConfig):
        """Describe the records.

        Args:
            source: the media.
            bucket: the size of the clips.
            data: how clips are cut.
        """
        self._source, self._bucket, self._data = source, bucket, data

    def random_map(self, element: int, rng: np.random.Generator) -> Record:
        """The record of medium `element`, or of the medium that replaces it.

        Raises:
            UserError: 20 media in a row cannot be decoded.
        """
        seed = draw_seed(rng)
        clip, bad = first_readable(
            self._source,
            element,
            lambda media: random_clip(media, self._bucket, self._data, rng),
        )
        lines = (" ".join(name.split()) + f"\t{reason}" for name, reason in bad)
        return {"video": clip, "seed": seed, "bad": np.str_("\n".join(lines))}


def draw_seed(rng: np.random.Generator) -> np.uint32:
    """A record's uint32 seed."""
    return rng.integers(2**32, dtype=np.uint32)


def first_readable(
    source: Source, index: int, cut: Callable[[Media], np.ndarray]
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """The clip of a medium; where the medium can't be decoded, that of the first replacement which
    can.

    Args:
        source: the media.
        index: number of the medium.
        cut: makes the clip of a medium.

    Returns:
        The clip, and (name, reason) of each medium before it that could not be decoded.

    Raises:
        UserError: 20 media in a row could not be decoded.
    """
    bad: list[tuple[str, str]] = []
    for number in itertools.islice(_replacements(index, len(source)), _ATTEMPTS):
        try:
            return cut(source[number]), bad
        except MemoryError:
            raise
        except Exception as error:  # damaged data makes libraries raise whatever there is
            bad.append((source.name(number), one_line(error)[:_LONGEST_REASON]))
    raise UserError(
        f"{_ATTEMPTS} files in a row could not be decoded; the last one: {': '.join(bad[-1])}"
    )


def _replacements(index: int, count: int) -> Iterator[int]:
    """`index`, and then the numbers of its replacements, which `index` and `count` determine.

    They are drawn from the whole source, since bad files often lie beside each other.
    """
    yield index
    rng = np.random.default_rng([index, count])
    while True:
        yield int(rng.integers(count))


class BadRecords:
    """Counts replaced records, logs each bad file once with its reason, and stops a run that has
    too many of them."""

    def __init__(self, largest_share: float):
        self._largest_share = largest_share
        self._seen = self._replaced = 0
        self._reasons: dict[str, str] = {}

    def take(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Count the bad records of a batch, and remove the entry "bad" from it.

        Raises:
            UserError: the share of bad records is too large.
        """
        batch = dict(batch)
        told = [str(lines) for lines in batch.pop("bad")]
        self._seen += len(told)
        self._replaced += sum(map(bool, told))
        for line in itertools.chain.from_iterable(lines.split("\n") for lines in told if lines):
            name, reason = line.split("\t", 1)
            if name not in self._reasons:
                self._reasons[name] = reason
                _log.warning(
                    "A record is replaced by another one: %s: %s", visible(name), visible(reason)
                )
        if self._seen >= _ENOUGH and self._replaced > self._largest_share * self._seen:
            raise UserError(self._report())
        return batch

    def metrics(self) -> dict[str, float]:
        """Counts so far: records that were replaced, and bad files."""
        return {
            "data/replaced_records": float(self._replaced),
            "data/bad_files": float(len(self._reasons)),
        }

    def _report(self) -> str:
        shown = [
            visible(f"{name}: {reason}") for name, reason in sorted(self._reasons.items())[:10]
        ]
        more = [f"and {len(self._reasons) - 10} more"] if len(self._reasons) > 10 else []
        return "\n  ".join(
            [
                f"{self._replaced} of {self._seen} records could not be decoded, more than the "
                f"share of {self._largest_share:g} that data.max_bad allows "
                "(`python -m cvvae_jax data check` lists every bad file):",
                *shown,
                *more,
            ]
        )


# Frames of evaluation clips are at most this many source frames apart.
_LARGEST_EVAL_STRIDE = 2


def random_clip(
    media: Media, bucket: Bucket, data: DataConfig, rng: np.random.Generator
) -> np.ndarray:
    """A clip to train on; all randomness comes from `rng`.

    An image is resized to cover the bucket's size, and cropped at its center.

    Returns:
        uint8 array (frames, height, width, 3) of the bucket's sizes.

    Raises:
        UserError: the medium cannot be decoded.
    """
    image = not isinstance(media, Frames) and is_image(media)
    numbers = _draw_numbers(frame_times(media), bucket.frames, data, rng)
    cover = (bucket.height, bucket.width)
    clip = read_clip(media, numbers, short_side=None if image else data.short_side, cover=cover)
    centered = image or data.crop == "center"
    spare = np.subtract(clip.shape[1:3], cover)
    top, left = (int(s) // 2 if centered else int(rng.integers(s + 1)) for s in spare)
    clip = clip[:, top : top + bucket.height, left : left + bucket.width]
    if data.flip and rng.random() < 0.5:
        clip = clip[:, :, ::-1]
    if data.reverse and rng.random() < 0.5:
        clip = clip[::-1]
    clip = recolored(clip, rng) if data.recolor else clip
    return np.ascontiguousarray(clip)


def center_clip(media: Media, bucket: Bucket, data: DataConfig, *, position: float) -> np.ndarray:
    """A clip without anything random: the center crop of the frames at a position.

    The stride is the smallest one of training, but at most 2 source frames; where `data` has a
    range of frame rates, the lowest rate is taken instead.

    Args:
        media: a video or an image.
        bucket: size of the clip. The last frame of a video that is too short is repeated.
        data: the strides or the frame rates of training.
        position: where in the video the clip lies, from 0, its beginning, to 1, its end.

    Returns:
        uint8 array (frames, height, width, 3) of the bucket's sizes.

    Raises:
        UserError: the medium cannot be decoded.
    """
    times = frame_times(media)
    if data.fps is not None:
        numbers = numbers_at_rate(times, bucket.frames, data.fps[0], position)
    else:
        stride = max(data.min_stride, min(_LARGEST_EVAL_STRIDE, data.max_stride))
        stride = min(stride, largest_stride(len(times), bucket.frames))
        spare = max(0, len(times) - 1 - stride * (bucket.frames - 1))
        numbers = round(position * spare) + stride * np.arange(bucket.frames)
    cover = (bucket.height, bucket.width)
    clip = read_clip(media, np.minimum(numbers, len(times) - 1), cover=cover)
    top, left = np.subtract(clip.shape[1:3], cover) // 2
    return np.ascontiguousarray(clip[:, top : top + bucket.height, left : left + bucket.width])


def largest_stride(count: int, frames: int) -> int:
    """The largest stride at which `frames` frames fit into `count` frames, at least 1."""
    return max(1, (count - 1) // max(frames - 1, 1))


def _draw_numbers(
    times: np.ndarray, frames: int, data: DataConfig, rng: np.random.Generator
) -> np.ndarray:
    """Frame numbers of a clip: int (frames,). The last frame of a short video is repeated."""
    if data.fps is not None:
        return numbers_at_rate(times, frames, rng.uniform(*data.fps), rng.random())
    largest = min(data.max_stride, largest_stride(len(times), frames))
    stride = int(rng.integers(min(data.min_stride, largest), largest + 1))
    spare = max(0, len(times) - 1 - stride * (frames - 1))
    start = int(rng.integers(spare + 1))
    return np.minimum(start + stride * np.arange(frames), len(times) - 1)


def numbers_at_rate(times: np.ndarray, frames: int, fps: float, position: float) -> np.ndarray:
    """Frame numbers of a clip with a given frame rate: int (frames,).

    Args:
        times: when each frame of the video is shown, in seconds from the first one on.
        frames: number of frames in the clip. The last frame of a video with fewer is repeated.
        fps: frames per second. The video's own average rate is taken where that is lower, and a
            higher rate where the video is too short.
        position: where the clip lies, from 0, the beginning, to 1, the end of the video.
    """
    if len(times) < frames:
        return np.minimum(np.arange(frames), len(times) - 1)
    own = (len(times) - 1) / times[-1] if times[-1] > 0 else math.inf
    span = min((frames - 1) / min(fps, own), float(times[-1]))
    wanted = position * (times[-1] - span) + np.linspace(0, span, frames)
    # The frame nearest to each time. Of two equally near frames it is always the earlier one, so
    # that rounding changes nothing.
    middles = (times[1:] + times[:-1]) / 2
    return np.searchsorted(middles, wanted - 1e-6 * span / max(frames - 1, 1))

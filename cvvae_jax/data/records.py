"""Records: a clip with a seed of its own, and what happens where a file is bad.

A record that cannot be decoded is replaced by another one of the source, always by the same; so the
stream keeps its shape, and no process waits for another. Which files were bad is told to the main
process within the batches, since workers are processes of their own.
"""

import itertools
import logging
from collections.abc import Callable, Iterator

import grain
import numpy as np

from cvvae_jax.config import Bucket, DataConfig
from cvvae_jax.data.clips import random_clip
from cvvae_jax.data.sources import Source
from cvvae_jax.errors import UserError, visible
from cvvae_jax.video_io.containers import one_line
from cvvae_jax.video_io.media import Media

Record = dict[str, np.ndarray | np.uint32 | np.str_]
"""What a dataset holds: "video", uint8 (frames, height, width, 3), its own "seed", a uint32, and
"bad", which records were passed over for it and why: a line each, name and reason between a tab."""

# So many unreadable files in a row are no accident.
_ATTEMPTS = 20
# Records that the share of bad ones is judged by, at least.
_ENOUGH = 200
_LONGEST_REASON = 500

_log = logging.getLogger(__name__)


class RandomRecord(grain.transforms.RandomMap):
    """Grain's transform from the number of a medium to a record; it depends on the record's
    generator alone."""

    def __init__(self, source: Source, *, bucket: Bucket, data: DataConfig):
        """Describe the records.

        Args:
            source: its media.
            bucket: sizes of their clips.
            data: how clips are cut.
        """
        self._source, self._bucket, self._data = source, bucket, data

    def random_map(self, element: int, rng: np.random.Generator) -> Record:
        """The record of medium `element`, or of the one that takes its place.

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
    """The clip of a medium, or of the first of those in its place that can be decoded.

    Returns:
        The clip, and the name of each one before it with why it could not be decoded.

    Raises:
        UserError: none of 20 can.
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
    """A number below `count`, then those that take its place one after the other: always the same.

    They lie all over the source, since bad files often lie beside each other.
    """
    yield index
    rng = np.random.default_rng([index, count])
    while True:
        yield int(rng.integers(count))


class BadRecords:
    """Counts the records that were replaced, says of each bad file once why, and stops a run that
    has too many."""

    def __init__(self, largest_share: float):
        self._largest_share = largest_share
        self._seen = self._replaced = 0
        self._reasons: dict[str, str] = {}

    def take(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A batch without what it says of bad files.

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
        """How many records were replaced so far, and how many files were bad."""
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

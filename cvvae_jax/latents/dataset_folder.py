"""The folder of a data set of latents: settings, shards, statistics and index."""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cvvae_jax.config.reading import build
from cvvae_jax.data.prepare.shards import record_name
from cvvae_jax.data.sources import write_exclusions
from cvvae_jax.errors import UserError
from cvvae_jax.latents.dataset_records import Format, shard_name
from cvvae_jax.resumable.checksums import SUMS, sums_text
from cvvae_jax.resumable.target import Target


@dataclasses.dataclass(frozen=True)
class ChannelSums:
    """Sums over some latents for the mean and the standard deviation of every channel, float64."""

    count: int
    """Number of positions: latent frames times rows times columns."""
    first: list[float]
    """Sum of the latents of each channel; for posteriors, of their means."""
    second: list[float]
    """Sum of the squared latents of each channel; for posteriors, of the expected squares, which
    are variance plus squared mean."""

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "ChannelSums":
        """Sum over the arrays (n, y, x, z) of a record: `latents`, or `mean` and `logvar`."""
        first = arrays["latents" if "latents" in arrays else "mean"].astype(np.float64)
        second = np.square(first)
        if "logvar" in arrays:
            second += np.exp(arrays["logvar"].astype(np.float64))
        places = tuple(range(first.ndim - 1))
        return cls(
            math.prod(first.shape[:-1]), first.sum(places).tolist(), second.sum(places).tolist()
        )

    @classmethod
    def added(cls, parts: Iterable["ChannelSums"]) -> "ChannelSums":
        """Add up sums. They are rounded exactly, so that their order doesn't matter."""
        parts = list(parts)
        return cls(
            sum(part.count for part in parts),
            [math.fsum(values) for values in zip(*(part.first for part in parts), strict=True)],
            [math.fsum(values) for values in zip(*(part.second for part in parts), strict=True)],
        )

    @property
    def mean(self) -> list[float]:
        """Mean of every channel."""
        return [value / self.count for value in self.first]

    @property
    def std(self) -> list[float]:
        """Standard deviation of every channel; for posteriors, of their samples."""
        pairs = zip(self.mean, self.second, strict=True)
        return [math.sqrt(max(second / self.count - mean**2, 0.0)) for mean, second in pairs]


BEGUN = "latents.json"
"""File with the settings, which is written first."""
COMPLETE = "statistics.json"
"""File with the statistics, which is written last: it says that the data set is complete."""
INDEX = "index.jsonl"
"""File with a line per record, in the order of the source."""
BAD = "bad.tsv"
"""File that lists the files that were left out, and why."""

_WORK = ".latents"
_PARTS = f"{_WORK}/parts"


@dataclasses.dataclass(frozen=True)
class FinishedShard:
    """A finished shard. It is kept as a JSON file until the data set is complete."""

    settings: str
    """Hash of the settings that the shard was made with."""
    rows: list[dict[str, Any]]
    """Lines of the index, one per record."""
    bad: dict[str, str]
    """Names of the files that were left out, with the reason."""
    left_frames: int
    """Frames at the ends of videos that were too few for a clip."""
    bytes: int
    """Size of the shard."""
    sums: list[ChannelSums]
    """Sums of every record."""


class LatentsFolder:
    """A folder into which any number of processes write shards.

    A shard is finished when its `FinishedShard` is there, which is written after it. Both have the
    same bytes whichever process writes them, so that it does no harm if two processes do.
    """

    def __init__(self, place: str, *, process: str):
        """Set up, without writing anything.

        Args:
            place: local path of the folder, or an address that fsspec knows.
            process: name of this process, which no other running process has.
        """
        self.target = Target(place, work=_WORK, scratch_name=f"scratch-{process}")
        self.lock = f"{place}/{_WORK}/lock-{process}"
        """File that the process keeps locked, if the folder is local."""
        self._settings: dict[str, Any] = {}

    def is_complete(self, settings: dict[str, Any]) -> bool:
        """Whether the data set is complete.

        Raises:
            UserError: the folder holds other files, or was begun with other settings.
        """
        names = self.target.names() - {_WORK}
        if BEGUN in names:
            self._compare(settings)
        elif names:
            raise UserError(
                f"{self.target.place} holds other files, such as {min(names)}; name a new or empty "
                "folder."
            )
        return COMPLETE in names

    def prepare(self) -> None:
        """Make the folder and its working folder, which holds the lock."""
        self.target.make(_PARTS)

    def begin(self, settings: dict[str, Any]) -> None:
        """Write the settings, or compare them with those that an earlier process wrote.

        Raises:
            UserError: the settings differ.
        """
        self.target.remove(f"{_WORK}/{self.target.scratch_name}")
        if BEGUN not in self.target.names():
            self.target.write(BEGUN, json.dumps(settings, indent=2) + "\n")
        self._compare(settings)
        self._settings = settings

    @property
    def shards(self) -> range:
        """Numbers of all shards, finished or not."""
        return range(-(-self._settings["items"] // self._settings["items_per_shard"]))

    def name(self, shard: int) -> str:
        """File name of a shard."""
        format: Format = self._settings["format"]
        return shard_name(shard, len(self.shards), format)

    def numbers(self, shard: int) -> range:
        """Numbers of the source's files that a shard is made of."""
        size = self._settings["items_per_shard"]
        return range(shard * size, min((shard + 1) * size, self._settings["items"]))

    def missing(self) -> list[int]:
        """Numbers of the shards that are not finished."""
        parts = self.target.names(_PARTS)
        # COMPLETE is looked for after the parts: a process that completes the folder writes it, and
        # then removes the parts.
        names = self.target.names()
        if COMPLETE in names:
            return []
        return [
            shard
            for shard in self.shards
            if f"{self.name(shard)}.json" not in parts or self.name(shard) not in names
        ]

    def put(self, shard: Path, number: int, **known) -> None:
        """Move a finished shard into the folder, then write its `FinishedShard`.

        Args:
            shard: local file of the shard.
            number: number of the shard.
            known: the other fields of its `FinishedShard`.
        """
        name = self.name(number)
        part = FinishedShard(settings=_digest(self._settings), bytes=shard.stat().st_size, **known)
        self.target.put(shard, name)
        self.target.write(f"{_PARTS}/{name}.json", json.dumps(dataclasses.asdict(part)))

    def complete(self) -> None:
        """Write the index, the list of bad files, checksums and statistics.

        Several processes may do so at once.

        Raises:
            UserError: no shard has a record, or a shard was made with other settings.
        """
        try:
            if COMPLETE not in self.target.names():
                self._complete()
        except FileNotFoundError:
            # Another process was faster, and has removed the files that this one reads.
            if COMPLETE not in self.target.names():
                raise
        self.clear()

    def clear(self) -> None:
        """Remove the working folder of a complete data set."""
        # Another process may remove it at the same time, or may just have begun to use it.
        with contextlib.suppress(OSError):
            self.target.remove(_WORK)

    def _complete(self) -> None:
        names = [self.name(shard) for shard in self.shards]
        parts = [self._part(name) for name in names]
        rows = [
            {"shard": name, **row}
            for name, part in zip(names, parts, strict=True)
            for row in part.rows
        ]
        kept = {row["name"] for row in rows}
        bad = {name: reason for part in parts for name, reason in part.bad.items()}
        # A source of shards without an index lists every record as a video and as an image, one of
        # which is bad.
        place = self._settings["source"]
        bad = {name: why for name, why in bad.items() if record_name(place, name) not in kept}
        if not rows:
            # The reason may be a temporary one, so the next try begins anew.
            self.target.remove(_PARTS)
            raise UserError(
                f"None of the {self._settings['items']} files can be encoded. The first one: "
                f"{next(iter(bad.values()))}"
            )
        total = ChannelSums.added(each for part in parts for each in part.sums)
        with self.target.scratch() as scratch:
            write_exclusions(scratch / BAD, bad)
            self.target.put(scratch / BAD, BAD)
        statistics = {
            "mean": total.mean,
            "std": total.std,
            "places": total.count,
            "records": len(rows),
            "files": len(kept),
            "frames": sum(row["frames"] for row in rows),
            "bytes": sum(part.bytes for part in parts),
            "left_out_files": len(bad),
            "left_out_frames": sum(part.left_frames for part in parts),
        }
        texts = {
            INDEX: "".join(json.dumps(row) + "\n" for row in rows),
            COMPLETE: json.dumps(statistics, indent=2) + "\n",
        }
        begun = self.target.read(BEGUN).decode()
        self.target.write(INDEX, texts[INDEX])
        self.target.write(SUMS, sums_text({BEGUN: begun} | texts))
        self.target.write(COMPLETE, texts[COMPLETE])

    def statistics(self) -> dict[str, Any]:
        """The content of `COMPLETE`, in a complete folder."""
        return self.target.read_object(COMPLETE)

    def _part(self, name: str) -> FinishedShard:
        part = build(FinishedShard, self.target.read_object(f"{_PARTS}/{name}.json"))
        if part.settings != _digest(self._settings):
            raise UserError(
                f"{self.target.place}: a process that began at the same time wrote {name} with "
                f"other settings than those of {BEGUN}; remove it, and it is written again."
            )
        return part

    def _compare(self, settings: dict[str, Any]) -> None:
        begun = self.target.read_object(BEGUN)
        place = self.target.place
        fixed = {"names", "items"} & settings.keys()
        if any(begun.get(name) != settings[name] for name in fixed):
            raise UserError(
                f"The files of {settings['source']} are not those that {place} was begun with: "
                "some were added, removed or renamed. Name another folder."
            )
        # `source` is not compared, since machines may have the same files in different places.
        for name in sorted((begun.keys() | settings.keys()) - {"source", "items", "names"}):
            if begun.get(name) != settings.get(name):
                raise UserError(
                    f"{place} was begun with {name.replace('_', '-')} {begun.get(name)}, not "
                    f"{settings.get(name)}. Give the same settings to go on, or name another "
                    "folder."
                )


def _digest(settings: dict[str, Any]) -> str:
    same = {name: value for name, value in settings.items() if name != "source"}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()

"""The folder of a data set of latents: its settings, its shards, its statistics and its index."""

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
from cvvae_jax.latents.records import Format, shard_name
from cvvae_jax.resumable.checksums import SUMS, sums_text
from cvvae_jax.resumable.target import Target


@dataclasses.dataclass(frozen=True)
class Sums:
    """What one part of the data adds, in float64; lists have an entry a channel."""

    count: int
    """Places: latent frames times rows times columns."""
    first: list[float]
    """Sums of the latents; of a posterior, of its means."""
    second: list[float]
    """Sums of their squares; of a posterior, of the expected ones: variance and squared mean."""

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "Sums":
        """Of a record's arrays (n, y, x, z): `latents`, or `mean` and `logvar`."""
        first = arrays["latents" if "latents" in arrays else "mean"].astype(np.float64)
        second = np.square(first)
        if "logvar" in arrays:
            second += np.exp(arrays["logvar"].astype(np.float64))
        places = tuple(range(first.ndim - 1))
        return cls(
            math.prod(first.shape[:-1]), first.sum(places).tolist(), second.sum(places).tolist()
        )

    @classmethod
    def added(cls, parts: Iterable["Sums"]) -> "Sums":
        """Of all parts together: exactly rounded, so in whichever order they come."""
        parts = list(parts)
        return cls(
            sum(part.count for part in parts),
            [math.fsum(values) for values in zip(*(part.first for part in parts), strict=True)],
            [math.fsum(values) for values in zip(*(part.second for part in parts), strict=True)],
        )

    @property
    def mean(self) -> list[float]:
        """Of every channel."""
        return [value / self.count for value in self.first]

    @property
    def std(self) -> list[float]:
        """Of every channel; of a posterior, that of samples of it."""
        pairs = zip(self.mean, self.second, strict=True)
        return [math.sqrt(max(second / self.count - mean**2, 0.0)) for mean, second in pairs]


BEGUN = "latents.json"
"""The file that says what the latents are made of, and how."""
COMPLETE = "statistics.json"
"""The file that is written last."""
INDEX = "index.jsonl"
"""The file that says what is in the shards, a line a record, in the order of the source."""
BAD = "bad.tsv"
"""The file that lists what was left out, and why."""

_WORK = ".latents"
_PARTS = f"{_WORK}/parts"


@dataclasses.dataclass(frozen=True)
class Part:
    """What is known of a finished shard."""

    settings: str
    """Hash of what the folder was begun with."""
    rows: list[dict[str, Any]]
    """Lines of the index."""
    bad: dict[str, str]
    """Why files were left out, by name."""
    left_frames: int
    """Frames at the ends of videos that were too few for a clip."""
    bytes: int
    """Of the shard."""
    sums: list[Sums]
    """Of every record."""


class Folder:
    """A folder that any number of processes write shards to, each of them whole.

    A shard counts as finished once its part is there, which is written after it. Both have the
    same bytes whoever writes them, so that nothing is lost if that happens twice.
    """

    def __init__(self, place: str, *, process: str):
        """Describe it.

        Args:
            place: a local path, or an address that fsspec knows.
            process: a name that no other running process has.
        """
        self.target = Target(place, work=_WORK, scratch_name=f"scratch-{process}")
        self.lock = f"{place}/{_WORK}/lock-{process}"
        """A file that the process keeps locked, if the folder is local."""
        self._settings: dict[str, Any] = {}

    def is_complete(self, settings: dict[str, Any]) -> bool:
        """Whether all is there.

        Raises:
            UserError: it holds other files, or was begun with other settings.
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
        """Make the folder, if there is none, with what is needed before it is locked."""
        self.target.make(_PARTS)

    def begin(self, settings: dict[str, Any]) -> None:
        """Compare the settings with those of processes before this one, or write them.

        Raises:
            UserError: they differ.
        """
        self.target.remove(f"{_WORK}/{self.target.scratch_name}")
        if BEGUN not in self.target.names():
            self.target.write(BEGUN, json.dumps(settings, indent=2) + "\n")
        self._compare(settings)
        self._settings = settings

    @property
    def shards(self) -> range:
        """Numbers of all shards."""
        return range(-(-self._settings["items"] // self._settings["items_per_shard"]))

    def name(self, shard: int) -> str:
        """The file of a shard."""
        format: Format = self._settings["format"]
        return shard_name(shard, len(self.shards), format)

    def numbers(self, shard: int) -> range:
        """The files of the source that a shard is made of."""
        size = self._settings["items_per_shard"]
        return range(shard * size, min((shard + 1) * size, self._settings["items"]))

    def missing(self) -> list[int]:
        """Numbers of the shards that are not finished."""
        parts = self.target.names(_PARTS)
        # In this order: another process that completes the folder removes the parts afterwards.
        names = self.target.names()
        if COMPLETE in names:
            return []
        return [
            shard
            for shard in self.shards
            if f"{self.name(shard)}.json" not in parts or self.name(shard) not in names
        ]

    def put(self, shard: Path, number: int, **known) -> None:
        """Move a local file to the place of a shard, then write its part.

        Args:
            shard: the file.
            number: of the shard.
            known: fields of its `Part`.
        """
        name = self.name(number)
        part = Part(settings=_digest(self._settings), bytes=shard.stat().st_size, **known)
        self.target.put(shard, name)
        self.target.write(f"{_PARTS}/{name}.json", json.dumps(dataclasses.asdict(part)))

    def complete(self) -> None:
        """Write what describes all shards; the last file says that all are there.

        Several processes may do so at once.

        Raises:
            UserError: there is no record in any shard, or a shard has other settings.
        """
        try:
            if COMPLETE not in self.target.names():
                self._complete()
        except FileNotFoundError:
            # Another process has been faster, and has removed what this one reads.
            if COMPLETE not in self.target.names():
                raise
        self.clear()

    def clear(self) -> None:
        """Remove what a complete folder doesn't need."""
        # Where another process does so too, or begins just now, it is the one that succeeds.
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
        # Shards without an index give all their records as videos, and as images once more.
        place = self._settings["source"]
        bad = {name: why for name, why in bad.items() if record_name(place, name) not in kept}
        if not rows:
            # It may be for a reason that passes.
            self.target.remove(_PARTS)
            raise UserError(
                f"None of the {self._settings['items']} files can be encoded; the first: "
                f"{next(iter(bad.values()))}"
            )
        total = Sums.added(each for part in parts for each in part.sums)
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
        """Of a complete folder."""
        return self.target.read_object(COMPLETE)

    def _part(self, name: str) -> Part:
        part = build(Part, self.target.read_object(f"{_PARTS}/{name}.json"))
        if part.settings != _digest(self._settings):
            raise UserError(
                f"{self.target.place}: {name} was written with other settings than those of "
                f"{BEGUN}, by a process that was begun at the same time; remove it to have it "
                "written again."
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
        # Machines may have the same files in different places.
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

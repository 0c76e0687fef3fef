"""Latents by their number, as numpy arrays: for training on them, with Grain or without."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from cvvae_jax.config import ConfigError
from cvvae_jax.config.home import at_home
from cvvae_jax.data.latents.entry import read_members, unpack
from cvvae_jax.data.latents.folder import BEGUN, COMPLETE, INDEX
from cvvae_jax.data.record_shards import open_shard

# Shards that a process keeps open; the usual limit of files is 1024.
_OPEN_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of all latents of a data set, unscaled; float64 (z,)."""

    mean: np.ndarray
    """Of every channel."""
    std: np.ndarray
    """Of every channel; where means and log-variances are stored, that of samples."""


class LatentsDataset:
    """What `python -m cvvae_jax latents` wrote: random access to records, of both formats.

    It is a source for Grain as it is, `grain.MapDataset.source(LatentsDataset(path))`, and may be
    sent to other processes. Reading needs no jax.
    """

    statistics: Statistics
    """Mean and standard deviation of every channel."""
    settings: dict[str, Any]
    """What the set was made of, and how: `weights` (SHA-256), `scaling_factor`, `format`, .."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keep: Callable[[dict[str, Any]], bool] | None = None,
    ):
        """Open a data set.

        Args:
            path: its folder, on a local disk.
            keep: which records to use, by what the index says of them, such as
                `lambda record: record["frames"] == 17`; None: all.

        Raises:
            ConfigError: there is no such data set, it is not finished, or none of it is kept.
        """
        # Shards stay open, whatever folder one works in.
        self._folder = os.path.abspath(at_home(path))
        self.settings = self._json(BEGUN, f"is no folder that `latents` wrote: it has no {BEGUN}")
        self._is_tar = self.settings["format"] == "webdataset"
        unfinished = "is not finished: `latents` goes on when its command is given again"
        found = self._json(COMPLETE, unfinished)
        self.statistics = Statistics(np.array(found["mean"]), np.array(found["std"]))
        self._shards: list[str] = []
        self._places = self._read_index(keep)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index`.

        Returns:
            Arrays (n, y, x, z) of the stored type: `mean` and `logvar`, or `latents`, unscaled; and
            what is known of it, such as `name`, `fps`, and the `frames`, `height` and `width` that
            `Codec.decode` asks for.

        Raises:
            ConfigError: the shard is missing or damaged.
            IndexError: there is no such record.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard, place, size = self._places[index].tolist()
        path = os.path.join(self._folder, self._shards[shard])
        try:
            if self._is_tar:
                return read_members(_part(path, place, size))
            return unpack(_reader(path).read([place])[0])
        except ConfigError:
            raise
        except Exception as error:  # damaged data makes libraries raise whatever there is
            raise ConfigError(f"{path} is damaged at record {index} of the set: {error}") from error

    def __repr__(self) -> str:
        return f"LatentsDataset({self._folder!r}, {len(self)} records)"

    def _read_index(self, keep: Callable[[dict[str, Any]], bool] | None) -> np.ndarray:
        """Shard, place and bytes of every record; int64 (records, 3)."""
        numbers: dict[str, int] = {}
        places = []
        with open(os.path.join(self._folder, INDEX), encoding="utf-8") as file:
            for row in map(json.loads, file):
                if keep is None or keep(row):
                    shard = numbers.setdefault(row["shard"], len(numbers))
                    places.append((shard, row["place"], row["bytes"]))
        if not places:
            raise ConfigError(f"{self._folder}: no record of it is kept.")
        self._shards = list(numbers)
        return np.array(places, np.int64)

    def _json(self, name: str, missing: str) -> dict[str, Any]:
        try:
            with open(os.path.join(self._folder, name), encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            raise ConfigError(f"{self._folder} {missing}.") from None


@functools.lru_cache(maxsize=_OPEN_AT_ONCE)
def _reader(path: str) -> Any:
    """A reader of an ArrayRecord file that this process keeps for a while."""
    return open_shard(path)


def _part(path: str, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)

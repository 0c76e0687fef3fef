"""Reads a data set of latents record by record, to train other models on it."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from cvvae_jax.config.places import at_home
from cvvae_jax.config.reading import build, parse, typed
from cvvae_jax.data.record_shards import open_shard
from cvvae_jax.errors import UserError
from cvvae_jax.latents.dataset_folder import BEGUN, COMPLETE, INDEX
from cvvae_jax.latents.dataset_records import SHARD, Format, read_members, unpack
from cvvae_jax.resumable.checksums import check_files, check_record

_PLACE = {"shard", "place", "bytes", "crc32"}
_LARGEST = 2**62
_NO_CHECKSUM = -1  # stands for the checksum in indexes of older versions, which have none
# Shards that a process keeps open. Systems usually allow 1024 open files.
_OPEN_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation of all unscaled latents of a data set, float64 (z,)."""

    mean: np.ndarray
    """Mean of every channel."""
    std: np.ndarray
    """Standard deviation of every channel; of samples where the set stores posteriors."""


class LatentsDataset:
    """Random access to the records that `python -m cvvae_jax latents` wrote, in either format.

    A `LatentsDataset` is a data source for Grain (`grain.MapDataset.source(LatentsDataset(path))`)
    and can be pickled. Reading needs no jax.
    """

    statistics: LatentStatistics
    """Mean and standard deviation of every channel."""
    settings: dict[str, Any]
    """Settings that the set was made with: `weights` (SHA-256), `scaling_factor`, `format`, .."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keep: Callable[[dict[str, Any]], bool] | None = None,
    ):
        """Open a data set.

        Args:
            path: folder of the data set, on a local disk.
            keep: chooses records by their line of the index, such as
                `lambda record: record["frames"] == 17`; None keeps all records.

        Raises:
            UserError: there is no such data set, it is not finished, its index or its settings are
                damaged, or `keep` keeps no record.
        """
        # Shards are opened later, when the working directory may be another one.
        self._folder = os.path.abspath(at_home(path))
        self.settings = self._json(BEGUN, f"is no folder that `latents` wrote: it has no {BEGUN}")
        format = typed(Format, self.settings.get("format"), f"{self._folder}/{BEGUN}: format")
        self._is_tar = format == "webdataset"
        unfinished = "is not finished: give the same `latents` command again to go on"
        found = self._json(COMPLETE, unfinished)
        check_files(self._folder, BEGUN, INDEX, COMPLETE)
        self.statistics = self._statistics(found)
        self._shards: list[str] = []
        self._counts: list[int] = []
        self._places = self._read_index(keep, found.get("records"))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read a record.

        Returns:
            Unscaled arrays (n, y, x, z) of the stored type, `mean` and `logvar` or `latents`; and
            the fields of `RecordMetadata`, such as `name`, `fps`, and the `frames`, `height` and
            `width` that `Latents` need.

        Raises:
            UserError: the shard is missing or damaged.
            IndexError: there is no such record.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard, place, size, crc32 = self._places[index].tolist()
        path = os.path.join(self._folder, self._shards[shard])
        try:
            data = self._record(path, place, size, self._counts[shard])
            what = f"{path}, at record {index} of the set,"
            check_record(data, None if crc32 == _NO_CHECKSUM else crc32, what)
            return read_members(data) if self._is_tar else unpack(data)
        except UserError:
            raise
        except Exception as error:  # damaged data makes libraries raise errors of any type
            raise UserError(f"{path} is damaged at record {index} of the set: {error}") from error

    def __repr__(self) -> str:
        return f"LatentsDataset({self._folder!r}, {len(self)} records)"

    def _record(self, path: str, place: int, size: int, count: int) -> bytes:
        if self._is_tar:
            data = _part(path, place, size)
        else:
            reader = _reader(path)
            if (found := reader.num_records()) != count:
                raise UserError(
                    f"{path} is not the shard that {INDEX} lists: it has {found} records, and "
                    f"should have {count}."
                )
            data = reader.read([place])[0]
        if len(data) != size:
            raise UserError(f"{path} is damaged: a record has {len(data)} bytes, not {size}.")
        return data

    def _read_index(self, keep: Callable[[dict[str, Any]], bool] | None, count: Any) -> np.ndarray:
        """Read the index: shard, place, bytes and checksum of kept records, int64 (records, 4)."""
        numbers: dict[str, int] = {}
        places = []
        self._counts = []
        with self._opened(INDEX) as file:
            for number, line in enumerate(file, 1):
                row, record = _parse_index_line(line, f"{file.name}: line {number}")
                shard = numbers.setdefault(record.shard, len(numbers))
                self._counts += [0] * (len(numbers) - len(self._counts))
                self._counts[shard] += 1
                if keep is None or keep(row):
                    places.append((shard, record.place, record.bytes, record.crc32))
        if sum(self._counts) != count:
            raise UserError(
                f"{self._folder}: {INDEX} has {sum(self._counts)} records, but {COMPLETE} says "
                f"{count}."
            )
        if not places:
            raise UserError(f"{self._folder}: `keep` keeps none of its records.")
        self._shards = list(numbers)
        return np.array(places, np.int64)

    def _statistics(self, found: dict[str, Any]) -> LatentStatistics:
        what = f"{self._folder}/{COMPLETE}"
        values = [typed(tuple[float, ...], found.get(n), f"{what}: {n}") for n in ("mean", "std")]
        mean, std = map(np.array, values)
        if mean.shape != std.shape or not np.isfinite([mean, std]).all():
            raise UserError(f"{what}: mean and std must be finite numbers, one per channel.")
        return LatentStatistics(mean, std)

    def _json(self, name: str, missing: str) -> dict[str, Any]:
        path = os.path.join(self._folder, name)
        if not os.path.isfile(path):
            raise UserError(f"{self._folder} {missing}.")
        with self._opened(name) as file:
            return typed(dict[str, Any], parse(file.read(), path), path)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[BinaryIO]:
        path = os.path.join(self._folder, name)
        try:
            with open(path, "rb") as file:
                yield file
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error


@dataclasses.dataclass(frozen=True)
class _IndexedRecord:
    """Where a record is, by its line of the index."""

    shard: str
    place: int
    bytes: int
    crc32: int = _NO_CHECKSUM


def _parse_index_line(line: bytes, what: str) -> tuple[dict[str, Any], _IndexedRecord]:
    """Parse a line of the index: all of its fields, and where the record is.

    Raises:
        UserError: `latents` cannot have written the line.
    """
    row = typed(dict[str, Any], parse(line, what), what)
    try:
        known = {name: row[name] for name in _PLACE & row.keys()}
        record = build(_IndexedRecord, known)
    except UserError as error:
        raise UserError(f"{what} is damaged: {error}") from error
    # A shard's name must not lead into another folder.
    is_shard = SHARD.fullmatch(record.shard)
    if not is_shard or not 0 <= record.place < _LARGEST or not 0 < record.bytes < _LARGEST:
        raise UserError(f"{what} names a place where no record can be.")
    if not _NO_CHECKSUM <= record.crc32 < 2**32:
        raise UserError(f"{what} has a checksum that is no CRC-32.")
    return row, record


@functools.lru_cache(maxsize=_OPEN_AT_ONCE)
def _reader(path: str) -> Any:
    """A reader of an ArrayRecord file, which stays open."""
    return open_shard(path)


def _part(path: str, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)

"""Videos and images in ArrayRecord shards, written by `data prepare`, TFDS or other programs."""

import bisect
import contextlib
import dataclasses
import functools
import glob
import itertools
import os
from collections.abc import Iterable
from typing import Any

import fsspec
import numpy as np
from array_record.python import array_record_module

from cvvae_jax.config.places import is_remote
from cvvae_jax.config.reading import build, parse, typed
from cvvae_jax.data.files import readable
from cvvae_jax.data.record_format import BEGUN, COMPLETE, INDEX, decode, kind_of
from cvvae_jax.errors import UserError
from cvvae_jax.resumable.checksums import check_files, check_record
from cvvae_jax.video_io.media_types import Blob, MediaKind, NothingFound

_MARK = ".array_record"
# A shard without any record has a block at its beginning and one at its end.
_SMALLEST_SHARD = 2 * 65536
# Shards that a process keeps open; the usual limit of open files is 1024.
_OPEN_AT_ONCE = 256
_NO_CHECKSUM = -1  # stands for records of older versions, whose index has no checksums
_PLACE = {"shard", "position", "kind", "crc32"}  # the fields of the index that are read
# The reader starts no threads that read ahead: records are read in random order.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


def are_shards(place: str) -> bool:
    """Whether a place is an ArrayRecord file, a pattern of such files, or a folder of them."""
    if _MARK in os.path.basename(place):
        return True
    if glob.has_magic(place):
        return False
    if is_remote(place):
        # An error here is raised again, with its reason, when the place is read as files.
        with contextlib.suppress(Exception):
            system, path = fsspec.core.url_to_fs(place)
            return bool(system.glob(f"{path.rstrip('/')}/*{_MARK}*"))
        return False
    return bool(_in_folder(place))


class RecordShards:
    """The media of a kind in ArrayRecord shards, in the order of the shards' names."""

    def __init__(self, place: str, kind: MediaKind):
        """Find the records of the kind.

        An index.jsonl of `data prepare` beside the shards says which records are of the kind.
        Without an index all records are taken to be; those of the other kind fail when they are
        read.

        Args:
            place: a shard, a pattern of shards, or the folder that they are in; on a local disk.
            kind: which kind of media.

        Raises:
            UserError: the place is not local, a shard is damaged or missing, or there is no record
                of the kind.
        """
        if is_remote(place):
            raise UserError(
                f"{place}: ArrayRecord shards are read from local disks only; copy them to one."
            )
        self._kind = kind
        self._paths = _find(place)
        self._chosen: list[_Records] = []
        for folder, paths in itertools.groupby(self._paths, os.path.dirname):
            _require_finished(folder)
            index = os.path.join(folder, INDEX)
            if os.path.isfile(index):
                self._chosen += _indexed(index, kind, paths, whole=os.path.isdir(place))
            else:
                self._chosen += map(_all, paths)
        self._ends = list(itertools.accumulate(len(each.positions) for each in self._chosen))
        if not self._ends[-1]:
            raise NothingFound(f"{place} holds no {kind}: none of its records is one.")

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Blob:
        """Medium `index`.

        Raises:
            UserError: the shard is damaged at this record, or the record is of the other kind.
        """
        name = self.name(index)
        suffix, data = decode(self._read(index), name)
        if kind_of(suffix) != self._kind:
            raise UserError(f"{name}, a {suffix[1:]} file, is no {self._kind}.")
        return Blob(f"{name}{suffix}", data)

    def name(self, index: int) -> str:
        """The shard's path and the record's position in it, such as clips.array_record#17."""
        return "{}#{}".format(*self._where(index))

    def _where(self, index: int) -> tuple[str, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect.bisect_right(self._ends, index)
        records = self._chosen[shard]
        return self._paths[shard], int(records.positions[index - self._ends[shard]])

    def _read(self, index: int) -> bytes:
        path, position = self._where(index)
        records, reader = self._chosen[bisect.bisect_right(self._ends, index)], _reader(path)
        if reader.num_records() != records.count:
            raise UserError(
                f"{path} is not the shard of its {INDEX}: it has {reader.num_records()} records, "
                f"and should have {records.count}."
            )
        try:
            record = reader.read([position])[0]
        except Exception as error:  # damaged data makes libraries raise whatever there is
            raise UserError(f"{path} is damaged at #{position}: {_first(error)}.") from error
        if records.checksums is not None and records.checksums[position] != _NO_CHECKSUM:
            check_record(record, int(records.checksums[position]), f"{path}#{position}")
        return record


@dataclasses.dataclass(frozen=True, eq=False)
class _Records:
    """The records of one shard that are used."""

    positions: range | np.ndarray
    """Positions in the shard of the records that are used."""
    count: int
    """Number of all records in the shard."""
    checksums: np.ndarray | None
    """int64 (count,): CRC-32 of each record, -1 where it is unknown; None where all are unknown."""


@functools.lru_cache(maxsize=_OPEN_AT_ONCE)
def _reader(path: str) -> Any:
    """A reader of a shard, cached in this process."""
    return open_shard(path)


def open_shard(path: str) -> Any:
    """A reader of an ArrayRecord file.

    Raises:
        UserError: there is no such file, or the file is damaged or cut off.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file.")
    # The reader takes a file that was cut off for an intact one without records.
    sound, why = os.path.getsize(path) >= _SMALLEST_SHARD, ""
    if sound:
        reader = array_record_module.ArrayRecordReader(path, _READER_OPTIONS)
        try:
            if reader.num_records() == 0:
                reader.read([0])  # fails unless the shard is really empty
        except RuntimeError as error:
            sound, why = False, f": {_first(error)}"
    if not sound:
        raise UserError(f"{path} is damaged, cut off, or no ArrayRecord file{why}.")
    return reader


def _require_finished(folder: str) -> None:
    if os.path.isfile(os.path.join(folder, BEGUN)) and not os.path.isfile(
        os.path.join(folder, COMPLETE)
    ):
        raise UserError(
            f"{folder} is not finished: `data prepare` goes on when its command is given again."
        )


def _find(place: str) -> list[str]:
    if os.path.isdir(place):
        paths = _in_folder(place)
    elif os.path.isfile(place):
        paths = [place]
    else:
        paths = [path for path in glob.glob(place, recursive=True) if os.path.isfile(path)]
    if not paths:
        raise UserError(f"{place}: there is no such ArrayRecord file.")
    return sorted(paths)


def _in_folder(folder: str) -> list[str]:
    paths = glob.glob(os.path.join(glob.escape(folder), f"*{_MARK}*"))
    return [path for path in paths if os.path.isfile(path)]


def _all(path: str) -> _Records:
    """All records of a shard."""
    reader = open_shard(path)
    count = reader.num_records()
    reader.close()
    return _Records(range(count), count, None)


@dataclasses.dataclass(frozen=True)
class IndexLine:
    """The fields of a line of the index that say where a record is, and its checksum."""

    shard: str
    position: int
    kind: MediaKind
    crc32: int | None = None


def _indexed(index: str, kind: MediaKind, paths: Iterable[str], *, whole: bool) -> list[_Records]:
    """The records of a kind in each shard; `whole` forbids that a shard of the index is missing."""
    check_files(os.path.dirname(index), INDEX)
    rows: dict[str, list[IndexLine]] = {os.path.basename(path): [] for path in paths}
    for number, line in enumerate(_lines(index), 1):
        row = _row(line, f"{index}: line {number}")
        if row.shard in rows:
            rows[row.shard].append(row)
        elif whole:
            raise UserError(f"{index} names {row.shard}, which does not lie beside it.")
    return [_records(index, shard, found, kind) for shard, found in rows.items()]


def _records(index: str, shard: str, rows: list[IndexLine], kind: MediaKind) -> _Records:
    """The records of a kind in a shard, from the lines of the index for all of its records."""
    positions = np.array([row.position for row in rows], object)
    if sorted(positions) != list(range(len(rows))):
        raise UserError(f"{index} doesn't name the records of {shard} once each.")
    checksums = np.full(len(rows), _NO_CHECKSUM)
    for row in rows:
        if row.crc32 is not None:
            checksums[row.position] = row.crc32 % 2**32
    of_kind = np.array([row.kind == kind for row in rows], bool)
    return _Records(positions[of_kind].astype(np.int64), len(rows), checksums)


def _row(line: bytes, what: str) -> IndexLine:
    try:
        row = typed(dict[str, Any], parse(line, "it"), "it")
        return build(IndexLine, {name: row[name] for name in _PLACE & row.keys()})
    except UserError as error:
        raise UserError(
            f"{what} is no line that `data prepare` writes ({error}) Without that file, all "
            "records are read."
        ) from None


def _lines(path: str) -> list[bytes]:
    with readable(path), open(path, "rb") as file:
        return file.readlines()


def _first(error: Exception) -> str:
    """The first clause of riegeli's message, which goes on with offsets and paths."""
    return str(error).split(";")[0].split(" (")[0]

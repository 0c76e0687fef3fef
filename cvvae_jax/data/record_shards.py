"""Videos and images in ArrayRecord shards: those of `data prepare`, of TFDS, and of others."""

import bisect
import contextlib
import functools
import glob
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import fsspec
from array_record.python import array_record_module

from cvvae_jax.config import ConfigError
from cvvae_jax.data.files import is_remote, readable
from cvvae_jax.data.media import Blob, Kind, NothingFound
from cvvae_jax.data.record_format import BEGUN, COMPLETE, INDEX, decode, kind_of

_MARK = ".array_record"
# Even without any record a shard has a block at its beginning and one at its end.
_SMALLEST_SHARD = 2 * 65536
# Shards that a process keeps open; the usual limit of files is 1024.
_OPEN_AT_ONCE = 256
# No thread of the reader's own reads ahead: records are read in random order.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


def are_shards(place: str) -> bool:
    """Whether a place is an ArrayRecord file, a pattern of such, or a folder right above some."""
    if _MARK in os.path.basename(place):
        return True
    if glob.has_magic(place):
        return False
    if is_remote(place):
        # What fails here fails again, with its reason, where the place is read as files.
        with contextlib.suppress(Exception):
            system, path = fsspec.core.url_to_fs(place)
            return bool(system.glob(f"{path.rstrip('/')}/*{_MARK}*"))
        return False
    return bool(_in_folder(place))


class RecordShards:
    """The media of a kind in ArrayRecord shards, in the order of the shards' names."""

    def __init__(self, place: str, kind: Kind):
        """Find out how many there are.

        Where there is an index.jsonl of `data prepare` beside the shards, it says which records are
        of the kind. Without it all are taken to be: those of the other kind fail when they are
        read.

        Args:
            place: a shard, a pattern of shards, or the folder that they are in; on a local disk.
            kind: which of the media.

        Raises:
            ConfigError: the place is no local one, a shard is damaged or missing, or there is no
                record of the kind.
        """
        if is_remote(place):
            raise ConfigError(
                f"{place}: ArrayRecord shards are read from local disks only; copy them to one."
            )
        self._kind = kind
        self._paths = _find(place)
        self._chosen: list[Sequence[int]] = []
        for folder, paths in itertools.groupby(self._paths, os.path.dirname):
            _require_finished(folder)
            index = os.path.join(folder, INDEX)
            if os.path.isfile(index):
                self._chosen += _indexed(index, kind, paths, whole=os.path.isdir(place))
            else:
                self._chosen += map(_all, paths)
        self._ends = list(itertools.accumulate(len(positions) for positions in self._chosen))
        if not self._ends[-1]:
            raise NothingFound(f"{place} holds no {kind}: none of its records is one.")

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Blob:
        """Medium `index`.

        Raises:
            ConfigError: the shard is damaged there, or the record is not of the kind.
        """
        path, position = self._where(index)
        name = self.name(index)
        suffix, data = decode(self._read(path, position), name)
        if kind_of(suffix) != self._kind:
            raise ConfigError(f"{name}, a {suffix[1:]} file, is no {self._kind}.")
        return Blob(f"{name}{suffix}", data)

    def name(self, index: int) -> str:
        """Its shard and its position there, as clips.array_record#17."""
        return "{}#{}".format(*self._where(index))

    def _where(self, index: int) -> tuple[str, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect.bisect_right(self._ends, index)
        return self._paths[shard], self._chosen[shard][index - self._ends[shard]]

    def _read(self, path: str, position: int) -> bytes:
        reader = _reader(path)
        if position >= reader.num_records():
            raise ConfigError(f"{path} is not the shard of its {INDEX}: it has no #{position}.")
        try:
            return reader.read([position])[0]
        except RuntimeError as error:
            raise ConfigError(f"{path} is damaged at #{position}: {_first(error)}.") from error


@functools.lru_cache(maxsize=_OPEN_AT_ONCE)
def _reader(path: str) -> Any:
    """A reader that this process keeps for a while."""
    return open_shard(path)


def open_shard(path: str) -> Any:
    """A reader of an ArrayRecord file.

    Raises:
        ConfigError: there is no such file, or it is damaged or cut off.
    """
    if not os.path.isfile(path):
        raise ConfigError(f"{path}: no such file.")
    # The reader says of a file that was cut off that it is fine and has no records.
    sound, why = os.path.getsize(path) >= _SMALLEST_SHARD, ""
    if sound:
        reader = array_record_module.ArrayRecordReader(path, _READER_OPTIONS)
        try:
            if reader.num_records() == 0:
                reader.read([0])  # fails unless there is nothing to be read
        except RuntimeError as error:
            sound, why = False, f": {_first(error)}"
    if not sound:
        raise ConfigError(f"{path} is damaged, cut off, or no ArrayRecord file{why}.")
    return reader


def _require_finished(folder: str) -> None:
    if os.path.isfile(os.path.join(folder, BEGUN)) and not os.path.isfile(
        os.path.join(folder, COMPLETE)
    ):
        raise ConfigError(
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
        raise ConfigError(f"{place}: there is no such ArrayRecord file.")
    return sorted(paths)


def _in_folder(folder: str) -> list[str]:
    paths = glob.glob(os.path.join(glob.escape(folder), f"*{_MARK}*"))
    return [path for path in paths if os.path.isfile(path)]


def _all(path: str) -> Sequence[int]:
    """The positions of all records of a shard."""
    reader = open_shard(path)
    count = reader.num_records()
    reader.close()
    return range(count)


def _indexed(index: str, kind: Kind, paths: Iterable[str], *, whole: bool) -> list[Sequence[int]]:
    """The positions of a kind's records in each shard; `whole`: no shard may be missing."""
    positions: dict[str, list[int]] = {os.path.basename(path): [] for path in paths}
    for number, line in enumerate(_lines(index), 1):
        try:
            row = json.loads(line)
            shard, position, this_kind = row["shard"], int(row["position"]), row["kind"]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{index}: line {number} is none of those that `data prepare` writes; without that "
                "file, all records are read."
            ) from None
        if shard not in positions:
            if whole:
                raise ConfigError(f"{index} names {shard}, which does not lie beside it.")
        elif this_kind == kind:
            positions[shard].append(position)
    return list(positions.values())


def _lines(path: str) -> list[str]:
    with readable(path), open(path, encoding="utf-8") as file:
        return file.readlines()


def _first(error: Exception) -> str:
    """The first clause of what riegeli says, which goes on with offsets and paths."""
    return str(error).split(";")[0].split(" (")[0]

"""Media in tar shards as WebDataset writes them, read with random access."""

import contextlib
import dataclasses
import functools
import glob
import hashlib
import io
import itertools
import logging
import os
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
from numpy.typing import ArrayLike

from cvvae_jax.config.places import at_home, is_remote
from cvvae_jax.data.files import SUFFIXES, fetch_bytes, find, readable
from cvvae_jax.errors import UserError, visible
from cvvae_jax.resumable.files import written_aside
from cvvae_jax.video_io.containers import suffix
from cvvae_jax.video_io.media_types import Blob, MediaKind, NothingFound

_log = logging.getLogger(__name__)

# Indexing waits for disks and networks much more than it computes.
_SHARDS_AT_ONCE = 32
# Bytes fetched for a header of a remote shard; the data behind it are rarely needed.
_FETCH_FOR_HEADER = 2**14
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|lzma|z)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
_COMPRESSED_BEGIN = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
# Version of the cached arrays, a part of the names in the cache.
_LAYOUT = 1


def are_shards(place: str) -> bool:
    """Whether a place is a tar, a pattern of tars, or a folder with tars and no media files.

    Compressed tars count as well, so that `TarShards` can say why they cannot be used.

    Raises:
        UserError: a remote folder cannot be listed.
    """
    if suffix(place) == ".tar" or _COMPRESSED.search(place):
        return True
    suffixes = {suffix(name) for name in _directly_in(place)}
    return ".tar" in suffixes and suffixes.isdisjoint(itertools.chain(*SUFFIXES.values()))


class TarShards:
    """The media of a kind in tars, in the order of the shards and of their members."""

    def __init__(self, place: str, kind: MediaKind):
        """Find the members by reading the headers; shards that were read before are in a cache.

        Args:
            place: a tar, a pattern (`shards/*.tar`, `shards-{000..123}.tar`), or a folder with tars
                directly in it; a local path or an address that fsspec knows.
            kind: which kind of members; the suffix of a member decides.

        Raises:
            UserError: there is no such shard, a shard is compressed or cannot be read, or no
                member is of the kind. Of a damaged shard the readable beginning is used.
        """
        self._shards = _addresses(place)
        with ThreadPoolExecutor(min(_SHARDS_AT_ONCE, len(self._shards))) as threads:
            indexes = list(threads.map(functools.partial(_members_of, kind), self._shards))
        members, self._shard_sizes = zip(*indexes, strict=True)
        self._ends = np.cumsum([len(each.sizes) for each in members])
        self._members = _joined(members)
        if not len(self):
            raise NothingFound(
                f"{place} holds no {kind}: no member of its {len(self._shards)} tar shards ends in "
                f"{', '.join(SUFFIXES[kind])}."
            )

    def __len__(self) -> int:
        return len(self._members.sizes)

    def __getitem__(self, index: int) -> Blob:
        """Member `index`."""
        shard = self._shard_of(index)
        start, size = int(self._members.starts[index]), int(self._members.sizes[index])
        # Checked before reading: a damaged header can state any size.
        whole = 0 <= size <= self._shard_sizes[shard] - start
        data = _read(self._shards[shard], start, size) if whole else b""
        if len(data) != size:
            raise UserError(
                f"{self.name(index)} cannot be read: its shard ends before it, and must have been "
                "cut off."
            )
        return Blob(self.name(index), data)

    def name(self, index: int) -> str:
        """The shard's path or address, a slash, and the member's name."""
        return f"{self._shards[self._shard_of(index)]}/{self._members.name(index)}"

    def _shard_of(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))


@dataclasses.dataclass(frozen=True, eq=False)
class _Members:
    """Where members lie, as arrays: millions of Python objects would fill the memory."""

    names: np.ndarray
    """uint8: all names in UTF-8, concatenated."""
    name_ends: np.ndarray
    """int64 (members,): where each name ends in `names`."""
    starts: np.ndarray
    """int64 (members,): position of each member's data in its shard, in bytes."""
    sizes: np.ndarray
    """int64 (members,): size of each member's data, in bytes."""

    @classmethod
    def of(cls, names: list[bytes], starts: ArrayLike, sizes: ArrayLike) -> "_Members":
        return cls(
            np.frombuffer(b"".join(names), np.uint8),
            np.cumsum([len(name) for name in names], dtype=np.int64),
            np.asarray(starts, np.int64),
            np.asarray(sizes, np.int64),
        )

    def raw_name(self, index: int) -> bytes:
        begin = self.name_ends[index - 1] if index else 0
        return self.names[begin : self.name_ends[index]].tobytes()

    def name(self, index: int) -> str:
        return self.raw_name(index).decode(errors="backslashreplace")

    def ending_in(self, suffixes: tuple[str, ...]) -> "_Members":
        endings = tuple(suffix.encode() for suffix in suffixes)
        names = [self.raw_name(i) for i in range(len(self.sizes))]
        kept = [i for i, name in enumerate(names) if name.lower().endswith(endings)]
        return _Members.of([names[i] for i in kept], self.starts[kept], self.sizes[kept])


def _joined(members: Sequence[_Members]) -> _Members:
    lengths = [len(each.names) for each in members]
    begins = np.cumsum([0, *lengths[:-1]])
    ends = [each.name_ends + begin for each, begin in zip(members, begins, strict=True)]
    return _Members(
        np.concatenate([each.names for each in members]),
        np.concatenate(ends),
        np.concatenate([each.starts for each in members]),
        np.concatenate([each.sizes for each in members]),
    )


def _addresses(place: str) -> list[str]:
    """The paths or addresses of the shards, sorted."""
    if _COMPRESSED.search(place):
        raise UserError(_compressed(place))
    if suffix(place) != ".tar":
        folder = place.rstrip("/")
        names = [name for name in _directly_in(place) if suffix(name) == ".tar"]
        found = [f"{folder}/{name}" for name in names]
    elif os.path.isfile(place):  # even if its name looks like a pattern
        found = [place]
    else:
        found = [path for pattern in _without_braces(place) for path in _matching(pattern)]
    if not found:
        raise UserError(f"{place} names no tar shard.")
    return sorted(set(found))


def _matching(pattern: str) -> list[str]:
    return find(pattern) if glob.has_magic(pattern) else [pattern]


def _without_braces(pattern: str) -> list[str]:
    """The patterns that a shell makes of `{000..123}` and `{a,b}`."""
    braces = _BRACES.search(pattern)
    if not braces:
        return [pattern]
    first, last, choices = braces.groups()
    if choices is not None:
        middles = choices.split(",")
    else:
        padded = any(end.startswith("0") and end != "0" for end in (first, last))
        width = max(len(first), len(last)) if padded else 0
        middles = [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [path for middle in middles for path in _without_braces(before + middle + after)]


def _directly_in(place: str) -> list[str]:
    """Names in a folder itself; an empty list where there is no such folder."""
    if is_remote(place):
        with readable(place):
            system, path = fsspec.core.url_to_fs(place)
            try:
                paths = system.ls(path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                paths = []
    else:
        paths = os.listdir(place) if os.path.isdir(place) else []
    names = [path.rstrip("/").rpartition("/")[2] for path in paths]
    return [name for name in names if not name.startswith(".")]


def _members_of(kind: MediaKind, shard: str) -> tuple[_Members, int]:
    """A shard's members of a kind, and its size in bytes."""
    with readable(shard):
        if is_remote(shard):
            system, path = fsspec.core.url_to_fs(shard)
            size, version = system.info(path)["size"], system.ukey(path)
            opened = functools.partial(system.open, path, "rb", block_size=_FETCH_FOR_HEADER)
            address = shard
        else:
            stat = os.stat(shard)
            size, version = stat.st_size, stat.st_mtime_ns
            opened, address = functools.partial(open, shard, "rb"), os.path.abspath(shard)
        key = hashlib.sha256(repr((_LAYOUT, address, size, version)).encode()).hexdigest()
        members = _cached(key)
        if members is None:
            with opened() as file:
                members, damage = _scan(file, shard, size)
            if damage:  # not cached, so that the next run warns as well
                said = visible(shard), visible(damage)
                _log.warning("%s is damaged; what lies behind is not used: %s.", *said)
            else:
                _cache(key, members)
    return members.ending_in(SUFFIXES[kind]), size


def _scan(file: io.IOBase, shard: str, shard_size: int) -> tuple[_Members, str]:
    """All visible files in a tar as far as its headers are readable, and what damage ended it."""
    names, starts, sizes, damage = [], [], [], ""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # tarfile would keep all of them
                name = member.name.removeprefix("./")
                if member.type in _REGULAR and not member.issparse() and not _hidden(name):
                    names.append(name.encode(errors="surrogateescape"))
                    starts.append(member.offset_data)
                    sizes.append(member.size)
                if not 0 <= member.size <= shard_size - member.offset_data:
                    raise tarfile.ReadError(f"{member.name} is cut off, or its header is broken")
            # tarfile takes a header that cannot be read for the end of the archive.
            file.seek(tar.offset)
            rest = file.read(tarfile.BLOCKSIZE)
            if any(rest) or len(rest) not in (0, tarfile.BLOCKSIZE):
                damage = f"no header at byte {tar.offset}"
    except (tarfile.TarError, ValueError, OverflowError, MemoryError) as error:
        file.seek(0)
        if file.read(8).startswith(_COMPRESSED_BEGIN) and not names:
            raise UserError(_compressed(shard)) from error
        damage = str(error)
    return _Members.of(names, starts, sizes), damage


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _compressed(shard: str) -> str:
    return (
        f"{shard} is compressed, which allows no random access: unpack it to a plain .tar. Media "
        "files are compressed already."
    )


def _read(shard: str, start: int, size: int) -> bytes:
    """Bytes of a shard; fewer where the shard ends before."""
    if is_remote(shard):
        # Servers answer an empty range with an error, or with the whole shard.
        return fetch_bytes(shard, start, start + size) if size else b""
    with readable(shard), open(shard, "rb") as file:
        file.seek(start)
        return file.read(size)


def _cache_folder() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(at_home(caches)) if caches else Path.home() / ".cache") / "cvvae_jax" / "tar-index"


def _cached(key: str) -> _Members | None:
    """The members in the cache; None where there are none, or the cached file is damaged."""
    try:
        with np.load(_cache_folder() / f"{key}.npz", allow_pickle=False) as arrays:
            members = _Members(**arrays)
        lengths = {len(members.name_ends), len(members.starts), len(members.sizes)}
        sound = len(lengths) == 1 and len(members.names) == max(members.name_ends, default=0)
        return members if sound else None
    except Exception:  # damaged files raise whatever the readers stumble over
        return None


def _cache(key: str, members: _Members) -> None:
    """Write members to the cache, if it can be written."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home
        folder = _cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with written_aside(folder / f"{key}.npz") as temporary:
            np.savez(temporary, **vars(members))

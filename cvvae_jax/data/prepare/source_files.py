"""The source's files with their hashes, and the shards that they go into.

The source and the settings alone determine which file goes into which shard.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from cvvae_jax.data.sources import Source, open_source
from cvvae_jax.resumable.files import file_sha256
from cvvae_jax.resumable.target import WORK, Target
from cvvae_jax.video_io.containers import one_line
from cvvae_jax.video_io.media_types import Blob, Media, MediaKind

HASHES = f"{WORK}/hashes"
"""Folder in the target for the results of the hash jobs."""
# This many shards keep the cores of a large machine busy.
_SHARDS_AT_LEAST = 32
_HASH_JOBS = 1000


@dataclasses.dataclass(frozen=True)
class File:
    """A medium of the source."""

    kind: MediaKind
    number: int
    """Number of the medium in the source of its kind."""
    name: str
    sha256: str
    """SHA-256 of the content, in hexadecimal digits."""
    size: int
    """Size in bytes."""


@dataclasses.dataclass(frozen=True)
class HashJob:
    """Hashes the content of a range of a source's media."""

    place: str
    exclude: str | None
    target: Target
    kind: MediaKind
    start: int
    stop: int

    @property
    def result(self) -> str:
        """Name of the file in `HASHES` that exists once the job is done."""
        return f"{self.kind}-{self.start:09d}.json"

    @property
    def what(self) -> str:
        """What the job works on, for messages."""
        return f"{self.kind} files {self.start} to {self.stop - 1} of the source"

    def __len__(self) -> int:
        return self.stop - self.start

    def run(self) -> None:
        """Write [name, SHA-256, bytes] of each medium, or [name, reason] of a bad one."""
        source = open_kind(self.place, self.exclude, self.kind)
        numbers = range(self.start, min(self.stop, len(source)))
        rows = [_hash_row(source, number) for number in numbers]
        self.target.write(f"{HASHES}/{self.result}", json.dumps(rows))


@functools.lru_cache(maxsize=len(get_args(MediaKind)))
def open_kind(place: str, exclude: str | None, kind: MediaKind) -> Source:
    """A source, which each process opens once for all of its jobs."""
    return open_source(place, kind, exclude=exclude)


def digest(sources: dict[MediaKind, Source]) -> str:
    """A hash of the names of all media."""
    return _digest(
        (kind, source.name(number))
        for kind, source in sources.items()
        for number in range(len(source))
    )


def hashed_digest(jobs: Sequence[HashJob]) -> str:
    """`digest` of the names that the workers found; it differs if the source has changed."""
    return _digest((job.kind, name) for job in jobs for name, *_ in _rows(job))


def _digest(names: Iterable[tuple[MediaKind, str]]) -> str:
    state = hashlib.sha256()
    for pair in names:
        state.update(json.dumps(pair).encode())
    return state.hexdigest()


def _rows(job: HashJob) -> list[list]:
    return json.loads(job.target.read(f"{HASHES}/{job.result}"))


def hash_jobs(
    sources: dict[MediaKind, Source], place: str, exclude: str | None, target: Target
) -> list[HashJob]:
    """The jobs that together hash every medium."""
    step = max(1, sum(map(len, sources.values())) // _HASH_JOBS)
    return [
        HashJob(place, exclude, target, kind, start, min(start + step, len(source)))
        for kind, source in sources.items()
        for start in range(0, len(source), step)
    ]


def collect(jobs: Sequence[HashJob]) -> tuple[list[File], dict[str, str]]:
    """The results of finished jobs, in the order of the source.

    Returns:
        Every readable file, but of files with equal content only the first one; and the reason for
        every other file, by name.
    """
    first: dict[str, File] = {}
    bad: dict[str, str] = {}
    for job in jobs:
        for number, (name, *found) in enumerate(_rows(job), job.start):
            if len(found) == 1:
                bad[name] = found[0]
                continue
            file = File(job.kind, number, name, *found)
            kept = first.setdefault(file.sha256, file)
            if kept is not file:
                bad[name] = f"duplicate of {kept.name}"
    kept_names = {file.name for file in first.values()}
    # Shards without an index list all records as videos, and again as images.
    return list(first.values()), {k: reason for k, reason in bad.items() if k not in kept_names}


def cut(files: Sequence[File], shard_mb: float) -> list[list[File]]:
    """Divide files into shards of consecutive files of one kind.

    Args:
        files: in the order of the source.
        shard_mb: MiB of files in a shard, at most; a larger file gets a shard of its own.
    """
    limit = min(shard_mb * 2**20, sum(file.size for file in files) / _SHARDS_AT_LEAST)
    shards: list[list[File]] = []
    size = 0
    for file in files:
        if not shards or size + file.size > limit or shards[-1][-1].kind != file.kind:
            shards.append([])
            size = 0
        shards[-1].append(file)
        size += file.size
    return shards


def content_hash(media: Media) -> tuple[str, int]:
    """SHA-256 of a medium's content, in hexadecimal digits, and its size in bytes.

    Raises:
        OSError: the medium cannot be read.
    """
    if isinstance(media, Path):
        return file_sha256(media), media.stat().st_size
    if isinstance(media, Blob):
        return hashlib.sha256(media.data).hexdigest(), len(media.data)
    state = hashlib.sha256(repr((media.array.shape, media.fps)).encode())
    for frame in media.array:
        state.update(frame.tobytes())
    return state.hexdigest(), media.array.nbytes


def _hash_row(source: Source, number: int) -> list[str | int]:
    try:
        return [source.name(number), *content_hash(source[number])]
    except MemoryError:
        raise
    except Exception as error:  # damaged data makes libraries raise whatever there is
        return [source.name(number), one_line(error)]

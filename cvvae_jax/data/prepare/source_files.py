"""Which file goes into which shard: decided by the source and the settings alone."""

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
"""Folder of the hash jobs' results."""
# So many shards keep the cores of a large machine busy.
_SHARDS_AT_LEAST = 32
_HASH_JOBS = 1000


@dataclasses.dataclass(frozen=True)
class File:
    """A medium of the source."""

    kind: MediaKind
    number: int
    """In the source of its kind."""
    name: str
    sha256: str
    """Of its content, in hexadecimal digits."""
    size: int
    """In bytes."""


@dataclasses.dataclass(frozen=True)
class HashJob:
    """Media of a source whose content is hashed by one worker at a time."""

    place: str
    exclude: str | None
    target: Target
    kind: MediaKind
    start: int
    stop: int

    @property
    def result(self) -> str:
        """The file of `HASHES` that is there once the job is done."""
        return f"{self.kind}-{self.start:09d}.json"

    @property
    def what(self) -> str:
        """What it works on, for messages."""
        return f"{self.kind} files {self.start} to {self.stop - 1} of the source"

    def __len__(self) -> int:
        return self.stop - self.start

    def run(self) -> None:
        """Hash them and write the result: [name, SHA-256, bytes] or [name, reason] for each."""
        source = open_kind(self.place, self.exclude, self.kind)
        numbers = range(self.start, min(self.stop, len(source)))
        rows = [_hash_row(source, number) for number in numbers]
        self.target.write(f"{HASHES}/{self.result}", json.dumps(rows))


@functools.lru_cache(maxsize=len(get_args(MediaKind)))
def open_kind(place: str, exclude: str | None, kind: MediaKind) -> Source:
    """A source that a process opens once for all of its jobs."""
    return open_source(place, kind, exclude=exclude)


def digest(sources: dict[MediaKind, Source]) -> str:
    """A hash of the names of all media."""
    return _digest(
        (kind, source.name(number))
        for kind, source in sources.items()
        for number in range(len(source))
    )


def hashed_digest(jobs: Sequence[HashJob]) -> str:
    """The same of the names that the workers found: another one if the source changed meanwhile."""
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
    """Jobs that together hash every medium."""
    step = max(1, sum(map(len, sources.values())) // _HASH_JOBS)
    return [
        HashJob(place, exclude, target, kind, start, min(start + step, len(source)))
        for kind, source in sources.items()
        for start in range(0, len(source), step)
    ]


def collect(jobs: Sequence[HashJob]) -> tuple[list[File], dict[str, str]]:
    """What the finished jobs found, in the order of the source.

    Returns:
        Every file that could be read and whose content is no other one's, and, by its name, why
        another one was left out.
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
    # Shards without an index give all their records as videos, and as images once more.
    return list(first.values()), {k: reason for k, reason in bad.items() if k not in kept_names}


def cut(files: Sequence[File], shard_mb: float) -> list[list[File]]:
    """Files in a row, of one kind, into shards.

    Args:
        files: in the order of the source.
        shard_mb: MiB of a shard's files, at most; a larger file has a shard of its own.
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
        OSError: it cannot be read.
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

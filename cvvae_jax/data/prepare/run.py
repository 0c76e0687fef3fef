"""`data prepare` from beginning to end: hashes the source, makes the shards, and describes them.

Work that an interrupted run has finished is not done again.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from cvvae_jax.config.places import is_remote
from cvvae_jax.data.prepare import shards, source_files
from cvvae_jax.data.prepare.local_runner import Job, LocalRunner
from cvvae_jax.data.prepare.options import PrepareOptions
from cvvae_jax.data.prepare.shards import PARTS, ShardJob, shard_name
from cvvae_jax.data.record_format import BEGUN, COMPLETE, INDEX
from cvvae_jax.data.sources import open_sources, write_exclusions
from cvvae_jax.errors import UserError
from cvvae_jax.resumable.checksums import SUMS, sums_text
from cvvae_jax.resumable.lock import locked
from cvvae_jax.resumable.target import (
    SCRATCH,
    WORK,
    Target,
    Track,
    absolute,
    interruptible,
    named_errors,
)

BAD = "bad.tsv"
"""The file in the target that lists the files left out, and why."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """Figures of a complete target."""

    shards: int
    """Number of ArrayRecord files."""
    records: int
    """Number of images, videos, and parts of long videos."""
    frames: int
    """Number of frames of all records."""
    megabytes: float
    """Size of the shards, in MiB."""
    left_out: int
    """Number of files in bad.tsv: damaged ones and duplicates."""
    was_complete: bool
    """Whether an earlier run had done everything."""


def prepare(options: PrepareOptions, track: Track | None = None) -> Summary:
    """Transcode and pack a source, or go on where the same command was interrupted.

    Args:
        options: source, target and settings.
        track: shows progress; None for none.

    Raises:
        UserError: the source or the target cannot be used, or a disk is full.
        KeyboardInterrupt: Ctrl-C or SIGTERM; its message says how to go on.
    """
    target = Target(absolute(options.target).rstrip("/"))
    settings = _settings(options)
    runner = _runner(options)
    with interruptible(), named_errors(target.place):
        was_complete = _check(target, settings)
        if not was_complete:
            source_files.open_kind.cache_clear()
            sources = open_sources(settings["source"], exclude=settings["exclude"])
            with _locked(target):
                if not _check(target, settings):
                    _begin(target, {**settings, "names": source_files.digest(sources)})
                    _prepare(options, target, sources, runner, track)
        target.remove(WORK)
        return _summary(target, was_complete)


def _begin(target: Target, settings: dict[str, Any]) -> None:
    """Compare the settings and the source with those of an interrupted run, or write them."""
    target.remove(SCRATCH)
    if BEGUN in target.names():
        _compare(target, settings)
    else:
        target.write(BEGUN, json.dumps(settings, indent=2) + "\n")


def _prepare(
    options: PrepareOptions, target: Target, sources: dict, runner: Any, track: Track | None
) -> None:
    place, exclude, config = *_places(options), options.config
    hash_jobs = source_files.hash_jobs(sources, place, exclude, target)
    _finish(runner, _missing(hash_jobs, target, source_files.HASHES), track, "files hashed")
    if source_files.hashed_digest(hash_jobs) != source_files.digest(sources):
        target.remove(WORK)
        target.remove(BEGUN)
        raise UserError(f"The files of {place} changed while they were read; begin again.")
    files, bad = source_files.collect(hash_jobs)
    if not files:
        raise UserError(f"{place}: none of its {len(bad)} files can be read.")

    name, version = shards.name_and_version(target.place)
    groups = source_files.cut(files, config.shard_mb)
    names = [shard_name(name, number, len(groups)) for number in range(len(groups))]
    shard_jobs = [
        ShardJob(place, exclude, target, config, shard, tuple(group))
        for shard, group in zip(names, groups, strict=True)
    ]
    _finish(runner, _missing(shard_jobs, target, PARTS), track, "files packed")
    parts = [json.loads(target.read(f"{PARTS}/{job.result}")) for job in shard_jobs]
    _complete(target, (name, version), parts, bad)


def _missing(jobs: Sequence[Job], target: Target, folder: str) -> list[Job]:
    """The jobs without a result, or whose shard was removed."""
    target.make(folder)
    results, shards = target.names(folder), target.names()
    return [
        job
        for job in jobs
        if job.result not in results or (isinstance(job, ShardJob) and job.shard not in shards)
    ]


def _finish(runner: Any, jobs: Sequence[Job], track: Track | None, unit: str) -> None:
    with contextlib.closing(runner.run(jobs)) as done:
        files = (file for job in done for file in range(len(job)))
        if track is not None and jobs:
            files = track(files, total=sum(map(len, jobs)), unit=unit)
        for _ in files:
            pass


def _complete(
    target: Target, name_and_version: tuple[str, str], parts: list[dict], bad: dict[str, str]
) -> None:
    """Write the files that describe the shards; the last one marks the target as complete."""
    rows = [row for part in parts for row in part["rows"]]
    for part in parts:
        bad = {**bad, **part["bad"]}
    if not rows:
        raise UserError(
            f"None of the {len(bad)} files can be stored; the first: {next(iter(bad.values()))}"
        )
    with target.scratch() as folder:
        write_exclusions(folder / BAD, bad)
        target.put(folder / BAD, BAD)
    lengths = [len(part["rows"]) for part in parts]
    size = sum(part["bytes"] for part in parts)
    texts = {
        INDEX: "".join(json.dumps(row) + "\n" for row in rows),
        shards.FEATURES: shards.features(),
        SUMS: "",
        COMPLETE: shards.info(*name_and_version, lengths, size),
    }
    begun = target.read(BEGUN).decode()
    texts[SUMS] = sums_text({BEGUN: begun} | {n: text for n, text in texts.items() if n != SUMS})
    for name, text in texts.items():
        target.write(name, text)


def _summary(target: Target, was_complete: bool) -> Summary:
    lengths, size = shards.lengths_and_size(target.read_object(COMPLETE), target.place)
    frames = [json.loads(line)["frames"] for line in target.read(INDEX).decode().splitlines()]
    return Summary(
        shards=len(lengths),
        records=len(frames),
        frames=sum(frames),
        megabytes=size / 2**20,
        left_out=len(target.read(BAD).splitlines()),
        was_complete=was_complete,
    )


def _settings(options: PrepareOptions) -> dict[str, Any]:
    source, exclude = _places(options)
    return {"source": source, "exclude": exclude, **dataclasses.asdict(options.config)}


def _places(options: PrepareOptions) -> tuple[str, str | None]:
    """The place of the source, and the path of the list of exclusions."""
    exclude = None if options.exclude is None else absolute(options.exclude)
    return absolute(options.source), exclude


def _runner(options: PrepareOptions) -> Any:
    if options.runner is None:
        return LocalRunner(options.workers)
    # Imported here, since Beam is rarely installed.
    from cvvae_jax.data.prepare.beam_runner import BeamRunner

    return BeamRunner(options.runner, options.beam_options)


def _check(target: Target, settings: dict[str, Any]) -> bool:
    """Whether a target is complete.

    Raises:
        UserError: the target was begun with other settings, or holds other files.
    """
    names = target.names() - {WORK}
    if BEGUN in names:
        _compare(target, settings)
    elif names:
        raise UserError(
            f"{target.place} holds other files, such as {min(names)}; name a new or empty folder."
        )
    return COMPLETE in names


def _compare(target: Target, settings: dict[str, Any]) -> None:
    begun = target.read_object(BEGUN)
    if "names" in settings and begun.get("names") != settings["names"]:
        raise UserError(
            f"The files of {settings['source']} are not those that {target.place} was begun with: "
            "some were added, removed or renamed. Name another folder."
        )
    for name, value in settings.items():
        if begun.get(name) != value:
            raise UserError(
                f"{target.place} was begun with {name.replace('_', '-')} {begun.get(name)}, not "
                f"{value}. Give the same settings to go on, or name another folder."
            )


@contextlib.contextmanager
def _locked(target: Target) -> Iterator[None]:
    """Holds the lock of a local target. A target in a bucket has none."""
    target.make(WORK)
    if is_remote(target.place):
        yield
        return
    busy = f"{target.place} is being prepared by another process"
    with locked(os.path.join(target.place, WORK, "lock"), busy):
        try:
            yield
        finally:
            # Workers that were killed leave files there.
            target.remove(SCRATCH)

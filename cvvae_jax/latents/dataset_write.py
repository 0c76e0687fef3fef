"""Encodes the videos and images of a source into a data set of latents; resumes where it was."""

import bisect
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cvvae_jax.config.latent_scale import latent_scale
from cvvae_jax.config.places import is_remote
from cvvae_jax.data.prepare.shards import record_name
from cvvae_jax.data.sources import open_sources
from cvvae_jax.errors import UserError
from cvvae_jax.latents.dataset_clips import DatasetClip
from cvvae_jax.latents.dataset_folder import LatentsFolder
from cvvae_jax.latents.dataset_options import LatentsConfig
from cvvae_jax.latents.dataset_records import RecordMetadata
from cvvae_jax.latents.dataset_shard import (
    ClipEncoder,
    ShardBuilder,
    SourceFile,
    read_clips_and_end,
)
from cvvae_jax.resumable.lock import locked
from cvvae_jax.resumable.parallel import in_order
from cvvae_jax.resumable.share import Share
from cvvae_jax.resumable.target import GOES_ON, Track, absolute, interruptible, named_errors


@dataclasses.dataclass(frozen=True)
class UnloadedEncoder:
    """An encoder that is loaded only if there is something to encode."""

    weights: str
    """SHA-256 of the model's files."""
    scaling_factor: float
    """Scale of the model's latents, as `config.latent_scale` explains it; so are the next three."""
    shift_factor: float
    settings: dict[str, Any]
    """Further settings that decide the latents, by the names of the command's arguments."""
    load: Callable[[], ClipEncoder]
    """Loads the encoder."""
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a process did, and what is left to do."""

    was_complete: bool
    """Whether there was nothing to do."""
    missing: int
    """Number of shards that other processes have not finished."""
    statistics: dict[str, Any] | None
    """Content of statistics.json; None while shards are missing."""


class SourceFiles:
    """All files of a place in order: videos, then images."""

    def __init__(self, place: str, exclude: str | None):
        """List the files.

        Args:
            place: where the data is, as `sources.open_source` explains.
            exclude: a file of names to leave out.

        Raises:
            UserError: there is no such place, or it has no files.
        """
        self._place = place
        self._sources = list(open_sources(place, exclude=exclude).items())
        lengths = [len(source) for _, source in self._sources]
        self._begins = list(itertools.accumulate(lengths, initial=0))

    def __len__(self) -> int:
        return self._begins[-1]

    def __getitem__(self, number: int) -> SourceFile:
        if not 0 <= number < len(self):
            raise IndexError(number)
        which = bisect.bisect_right(self._begins, number) - 1
        kind, source = self._sources[which]
        index = number - self._begins[which]
        return SourceFile(source, index, number, kind, record_name(self._place, source.name(index)))

    def digest(self) -> str:
        """A hash of all names in order, which does not depend on where the place is."""
        state = hashlib.sha256()
        for file in self:
            state.update(json.dumps([file.kind, file.name]).encode())
        return state.hexdigest()


def write_latents(
    source: str,
    target: str,
    *,
    config: LatentsConfig,
    model: UnloadedEncoder,
    share: Share,
    exclude: str | None,
    readers: int,
    track: Track | None = None,
) -> Outcome:
    """Encode a source into shards. A call with the same arguments resumes an interrupted one.

    Args:
        source: place of the data, as `sources.open_source` explains.
        target: folder for the shards: new, empty, or begun with the same arguments.
        config: what is encoded, and how it is stored.
        model: the encoder.
        share: which of the shards this process makes.
        exclude: a file of names to leave out.
        readers: number of files that are read at once.
        track: shows progress; None shows nothing.

    Raises:
        UserError: the source or the target cannot be used, the target was begun with other
            settings, no file can be encoded, or a disk is full.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the message says how to go on.
    """
    place = absolute(target).rstrip("/")
    process = f"{share.process_index}-of-{share.process_count}"
    folder = LatentsFolder(place, process=process)
    settings = _settings(source, config, model)
    with interruptible(), named_errors(place):
        if folder.is_complete(settings):
            folder.clear()
            return Outcome(was_complete=True, missing=0, statistics=folder.statistics())
        files = SourceFiles(absolute(source), exclude)
        settings |= {"items": len(files), "names": files.digest()}
        encoder = model.load()  # may fail, so it comes before anything is written
        folder.prepare()
        busy = f"{share} is at work on {place} already"
        with contextlib.nullcontext() if is_remote(place) else locked(folder.lock, busy):
            folder.begin(settings)
            shards = {n: folder.numbers(n) for n in folder.missing() if share.has(n)}
            done = _encode(folder, files, shards, encoder, config, model, readers)
            if track is not None and shards:
                done = track(done, total=sum(map(len, shards.values())), unit="files")
            _exhaust(done, config, readers)
            missing = folder.missing()
            if not missing:
                folder.complete()
        statistics = None if missing else folder.statistics()
        return Outcome(was_complete=False, missing=len(missing), statistics=statistics)


def _exhaust(done: Iterable[SourceFile], config: LatentsConfig, readers: int) -> None:
    try:
        for _ in done:
            pass
    except MemoryError:
        raise UserError(
            f"There is not enough memory for {readers} readers (--readers), each of which holds "
            f"frames of up to twice {config.record_mb:g} MiB (--record-mb). {GOES_ON}"
        ) from None


def _encode(
    folder: LatentsFolder,
    files: SourceFiles,
    shards: dict[int, range],
    encoder: ClipEncoder,
    config: LatentsConfig,
    model: UnloadedEncoder,
    readers: int,
) -> Iterator[SourceFile]:
    """Make shards, and yield every file once it has been read."""
    metadata = functools.partial(_record_metadata, model)
    jobs = (
        functools.partial(read_clips_and_end, files[each], config, encoder.limits)
        for numbers in shards.values()
        for each in numbers
    )
    with contextlib.closing(in_order(jobs, threads=readers)) as events:
        for number, numbers in shards.items():
            shard = [files[each] for each in numbers]
            with folder.target.scratch() as scratch:
                path = scratch / folder.name(number)
                builder = ShardBuilder(scratch, encoder=encoder, config=config, metadata=metadata)
                with contextlib.closing(builder):
                    yield from builder.encode(shard, events)
                    known = builder.finish(shard, path)
                folder.put(path, number, **known)


def _record_metadata(
    model: UnloadedEncoder, file: SourceFile, number: int, clip: DatasetClip
) -> RecordMetadata:
    box = clip.box
    return RecordMetadata(
        name=file.name,
        kind=file.kind,
        item=file.number,
        clip=number,
        start=clip.start,
        frames=len(clip.video),
        fps=clip.fps,
        seconds=clip.seconds,
        pixel_aspect=clip.pixel_aspect,
        height=box.height,
        width=box.width,
        original_height=box.original[0],
        original_width=box.original[1],
        resized_height=box.resized[0],
        resized_width=box.resized[1],
        crop_top=box.top,
        crop_left=box.left,
        weights=model.weights,
        **latent_scale(model),
    )


def _settings(source: str, config: LatentsConfig, model: UnloadedEncoder) -> dict[str, Any]:
    return {
        "source": absolute(source),
        "weights": model.weights,
        **_known_scale(model),
        **model.settings,
        **dataclasses.asdict(config),
    }


def _known_scale(model: UnloadedEncoder) -> dict[str, Any]:
    """The scale of the model as JSON values, without fields that are None.

    Older versions did not write these fields, and their data sets can still be resumed.
    """
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in latent_scale(model).items()
        if value is not None
    }

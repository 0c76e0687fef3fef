"""A source's videos and images through an encoder into shards: the parts of it that are missing."""

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
from cvvae_jax.latents.clips import Clip
from cvvae_jax.latents.folder import Folder
from cvvae_jax.latents.options import LatentsConfig
from cvvae_jax.latents.records import Entry
from cvvae_jax.latents.work import Encoder, Item, ShardWork, read_item
from cvvae_jax.resumable.lock import locked
from cvvae_jax.resumable.parallel import in_order
from cvvae_jax.resumable.share import Share
from cvvae_jax.resumable.target import GOES_ON, Track, absolute, interruptible, named_errors


@dataclasses.dataclass(frozen=True)
class Model:
    """What is known of a model before it is loaded."""

    weights: str
    """SHA-256 of its files."""
    scaling_factor: float
    """See `config.latent_scale`, like the three after it."""
    shift_factor: float
    settings: dict[str, Any]
    """What else decides about the latents, by the names of the command's options."""
    load: Callable[[], Encoder]
    """Called only if there is something to encode."""
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is there once a process has ended."""

    was_complete: bool
    """Whether there was nothing to do."""
    missing: int
    """Shards that other processes have not finished."""
    statistics: dict[str, Any] | None
    """What statistics.json says; None while shards are missing."""


class Items:
    """Everything in a place, in its order: videos, then images."""

    def __init__(self, place: str, exclude: str | None):
        """Find it.

        Raises:
            UserError: there is no such place, or nothing in it.
        """
        self._place = place
        self._sources = list(open_sources(place, exclude=exclude).items())
        lengths = [len(source) for _, source in self._sources]
        self._begins = list(itertools.accumulate(lengths, initial=0))

    def __len__(self) -> int:
        return self._begins[-1]

    def __getitem__(self, number: int) -> Item:
        """The file of a number."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        which = bisect.bisect_right(self._begins, number) - 1
        kind, source = self._sources[which]
        index = number - self._begins[which]
        return Item(source, index, number, kind, record_name(self._place, source.name(index)))

    def digest(self) -> str:
        """A hash of all names and their order, wherever the place itself lies."""
        state = hashlib.sha256()
        for item in self:
            state.update(json.dumps([item.kind, item.name]).encode())
        return state.hexdigest()


def write_latents(
    source: str,
    target: str,
    *,
    config: LatentsConfig,
    model: Model,
    share: Share,
    exclude: str | None,
    readers: int,
    track: Track | None = None,
) -> Outcome:
    """Encode a source; goes on where the same command was interrupted.

    Args:
        source: whatever training data can be, as `sources.open_source` explains.
        target: folder for the shards, new, empty, or begun by the same command.
        config: what is encoded, and how it is stored.
        model: what encodes it.
        share: which of the shards this process makes.
        exclude: a file of names to leave out.
        readers: files that are read at once.
        track: shows progress; None for none.

    Raises:
        UserError: source or target cannot be used, the target was begun with something else, no
            file can be encoded, or a disk is full.
        KeyboardInterrupt: Ctrl-C or SIGTERM; its message says how to go on.
    """
    place = absolute(target).rstrip("/")
    process = f"{share.process_index}-of-{share.process_count}"
    folder = Folder(place, process=process)
    settings = _settings(source, config, model)
    with interruptible(), named_errors(place):
        if folder.is_complete(settings):
            folder.clear()
            return Outcome(was_complete=True, missing=0, statistics=folder.statistics())
        items = Items(absolute(source), exclude)
        settings |= {"items": len(items), "names": items.digest()}
        encoder = model.load()  # before anything is written, since it may fail
        folder.prepare()
        busy = f"{share} is at work on {place} already"
        with contextlib.nullcontext() if is_remote(place) else locked(folder.lock, busy):
            folder.begin(settings)
            shards = {n: folder.numbers(n) for n in folder.missing() if share.has(n)}
            done = _encode(folder, items, shards, encoder, config, model, readers)
            if track is not None and shards:
                done = track(done, total=sum(map(len, shards.values())), unit="files")
            _exhaust(done, config, readers)
            missing = folder.missing()
            if not missing:
                folder.complete()
        statistics = None if missing else folder.statistics()
        return Outcome(was_complete=False, missing=len(missing), statistics=statistics)


def _exhaust(done: Iterable[Item], config: LatentsConfig, readers: int) -> None:
    try:
        for _ in done:
            pass
    except MemoryError:
        raise UserError(
            f"There is not enough memory for frames of {readers} --readers with up to twice "
            f"{config.record_mb:g} MiB each (--record-mb). {GOES_ON}"
        ) from None


def _encode(
    folder: Folder,
    items: Items,
    shards: dict[int, range],
    encoder: Encoder,
    config: LatentsConfig,
    model: Model,
    readers: int,
) -> Iterator[Item]:
    """Makes shards; every file of them is yielded when it has been read."""
    entry = functools.partial(_entry, model)
    jobs = (
        functools.partial(read_item, items[each], config, encoder.limits)
        for numbers in shards.values()
        for each in numbers
    )
    with contextlib.closing(in_order(jobs, threads=readers)) as events:
        for number, numbers in shards.items():
            shard = [items[each] for each in numbers]
            with folder.target.scratch() as scratch:
                path = scratch / folder.name(number)
                work = ShardWork(scratch, encoder=encoder, config=config, entry=entry)
                with contextlib.closing(work):
                    yield from work.encode(shard, events)
                    known = work.finish(shard, path)
                folder.put(path, number, **known)


def _entry(model: Model, item: Item, number: int, clip: Clip) -> Entry:
    box = clip.box
    return Entry(
        name=item.name,
        kind=item.kind,
        item=item.number,
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


def _settings(source: str, config: LatentsConfig, model: Model) -> dict[str, Any]:
    return {
        "source": absolute(source),
        "weights": model.weights,
        **_known_scale(model),
        **model.settings,
        **dataclasses.asdict(config),
    }


def _known_scale(model: Model) -> dict[str, Any]:
    """As JSON; without a mean there is no word of it, as in sets that older versions began."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in latent_scale(model).items()
        if value is not None
    }

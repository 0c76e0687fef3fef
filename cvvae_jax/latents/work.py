"""One shard: its files' clips through the encoder, whole files only, in the order of the source."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cvvae_jax.config.latent_scale import LATENT_SCALE
from cvvae_jax.data.sources import Source
from cvvae_jax.errors import UserError
from cvvae_jax.latents.clips import Clip, Limits, read_clips
from cvvae_jax.latents.folder import Sums
from cvvae_jax.latents.options import LatentsConfig
from cvvae_jax.latents.records import Entry, pack, write_shard
from cvvae_jax.video_io.containers import one_line
from cvvae_jax.video_io.media_types import MediaKind

# So many files of a shard, and all of them bad, are no accident; as many as in training.
_TOO_MANY_BAD = 20

ClipKey = tuple[int, int]
"""The number of a file in the source, and of a clip in it."""


@runtime_checkable
class Encoder(Protocol):
    """A model that gives latents."""

    limits: Limits

    def __call__(self, video: np.ndarray, keys: Sequence[ClipKey]) -> dict[str, Any]:
        """The arrays to store of uint8 videos (b, t, h, w, 3), each (b, n, y, x, z): `mean` and
        `logvar`, or `latents`. They may be still in the making on a device.

        Args:
            video: clips of one shape.
            keys: of each clip; random numbers may depend on nothing else.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Item:
    """A file of the source."""

    source: Source
    index: int
    """In that source."""
    number: int
    """In all of them together."""
    kind: MediaKind
    name: str
    """What it is called in records."""

    @property
    def full_name(self) -> str:
        """What it is called in lists of exclusions."""
        return self.source.name(self.index)


@dataclasses.dataclass(frozen=True)
class End:
    """What is known of a file once it has been read."""

    left_frames: int
    """That were too few for a clip."""
    bad: str | None = None
    """Why it is left out."""


def read_item(item: Item, config: LatentsConfig, limits: Limits) -> Iterator[Clip | End]:
    """The clips of a file, then its end."""
    try:
        left = yield from read_clips(item.source[item.index], item.kind, config, limits)
        yield End(left)
    except MemoryError:
        raise
    except Exception as error:  # damaged data makes libraries raise whatever there is
        yield End(0, one_line(error))


@dataclasses.dataclass(frozen=True)
class _Record:
    """A packed record that lies in the file of those that are not in their order yet."""

    entry: Entry
    sums: Sums
    offset: int
    size: int


class ShardWork:
    """Makes one shard. What is encoded waits in a file until it is known which files are bad."""

    def __init__(
        self,
        folder: Path,
        *,
        encoder: Encoder,
        config: LatentsConfig,
        entry: Callable[[Item, int, Clip], Entry],
    ):
        """Begin.

        Args:
            folder: an empty one.
            encoder: the model.
            config: what is stored.
            entry: what is said of a clip of a file.
        """
        self._encoder, self._config, self._entry = encoder, config, entry
        self._file = (folder / "records").open("w+b")
        self._records: dict[ClipKey, _Record] = {}
        self._bad: dict[int, str] = {}
        self._left_frames = 0
        self._groups: dict[tuple[int, ...], list] = collections.defaultdict(list)
        self._waiting: tuple[list[Entry], dict[str, Any]] | None = None

    def encode(self, items: Sequence[Item], events: Iterator[Clip | End]) -> Iterator[Item]:
        """Take the clips and ends of these files; each file is yielded when it has been read."""
        for item in items:
            clip = 0
            while isinstance(event := next(events), Clip):
                self._add(self._entry(item, clip, event), event.video)
                clip += 1
            self._left_frames += event.left_frames
            if event.bad is not None:
                self._bad[item.number] = event.bad
            yield item
        for group in self._groups.values():
            self._send(group)
        self._store()

    def finish(self, items: Sequence[Item], shard: Path) -> dict[str, Any]:
        """Write the shard.

        Returns:
            What is known of it: fields of its `Part`.

        Raises:
            UserError: so many files are bad that something else must be wrong.
        """
        bad = {item.full_name: self._bad[item.number] for item in items if item.number in self._bad}
        if len(bad) == len(items) >= _TOO_MANY_BAD:
            name, reason = next(iter(bad.items()))
            raise UserError(
                f"None of {len(bad)} files in a row can be encoded; {name}: {reason} If they are "
                "bad indeed, leave them out with --exclude."
            )
        kept = [self._records[key] for key in sorted(self._records) if key[0] not in self._bad]
        packed = ((record.entry, self._read(record)) for record in kept)
        places = write_shard(shard, packed, self._config.format)
        rows = [
            {**vars(place), **_row(record.entry)}
            for record, place in zip(kept, places, strict=True)
        ]
        return {
            "rows": rows,
            "bad": bad,
            "left_frames": self._left_frames,
            "sums": [record.sums for record in kept],
        }

    def close(self) -> None:
        """Close the file; its folder is another one's to remove."""
        self._file.close()

    def _add(self, entry: Entry, video: np.ndarray) -> None:
        group = self._groups[video.shape]
        group.append((entry, video))
        if len(group) == self._config.batch:
            self._send(group)

    def _send(self, group: list[tuple[Entry, np.ndarray]]) -> None:
        """Encode clips of one shape. While the device is at work, those before are stored."""
        if not group:
            return
        entries = [entry for entry, _ in group]
        # Copies of the last one: another size of batch would be compiled anew.
        filled = group + group[-1:] * (self._config.batch - len(group))
        videos = [video for _, video in filled]
        video = np.stack(videos) if len(videos) > 1 else videos[0][None]  # no copy of a long one
        arrays = self._encoder(video, [(entry.item, entry.clip) for entry, _ in filled])
        group.clear()
        self._store()
        self._waiting = entries, arrays

    def _store(self) -> None:
        if self._waiting is None:
            return
        entries, arrays = self._waiting
        self._waiting = None
        on_host = {name: np.asarray(array) for name, array in arrays.items()}
        for number, entry in enumerate(entries):
            # What overflows is found below.
            with np.errstate(over="ignore"):
                stored = {
                    name: np.ascontiguousarray(array[number]).astype(self._config.store)
                    for name, array in on_host.items()
                }
            self._append(entry, stored)

    def _append(self, entry: Entry, arrays: dict[str, np.ndarray]) -> None:
        if not all(np.isfinite(array).all() for array in arrays.values()):
            self._bad.setdefault(
                entry.item,
                f"frame {entry.start} and those after it have latents that are no finite "
                f"{self._config.store} numbers.",
            )
            return
        data = pack(entry, arrays)
        offset = self._file.tell()
        self._file.write(data)
        self._records[entry.item, entry.clip] = _Record(entry, Sums.of(arrays), offset, len(data))

    def _read(self, record: _Record) -> bytes:
        self._file.seek(record.offset)
        return self._file.read(record.size)


def _row(entry: Entry) -> dict[str, Any]:
    """What the index says of a record: without what all of them share, and what is long."""
    left_out = ("weights", *LATENT_SCALE, "seconds")
    return {name: value for name, value in vars(entry).items() if name not in left_out}

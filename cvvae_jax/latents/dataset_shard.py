"""Makes one shard of a data set of latents: reads its files, encodes their clips, writes records.

A file is stored with all of its clips or left out, and records are in the order of the source.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Key, UInt8, UInt32

from cvvae_jax.codec.codec import Codec
from cvvae_jax.config.latent_scale import LATENT_SCALE
from cvvae_jax.data.sources import Source
from cvvae_jax.errors import UserError
from cvvae_jax.latents.dataset_clips import ClipLimits, DatasetClip, read_clips
from cvvae_jax.latents.dataset_folder import ChannelSums
from cvvae_jax.latents.dataset_options import LatentsConfig
from cvvae_jax.latents.dataset_records import RecordMetadata, pack, write_shard
from cvvae_jax.video_io.containers import one_line
from cvvae_jax.video_io.media_types import MediaKind

# If this many files of a shard are bad, and no file is good, the command stops. Training uses the
# same number.
_TOO_MANY_BAD = 20

ClipKey = tuple[int, int]
"""The number of a file in the source, and the number of a clip in the file."""


@runtime_checkable
class ClipEncoder(Protocol):
    """A function from clips to the arrays that are stored."""

    limits: ClipLimits

    def __call__(self, video: np.ndarray, keys: Sequence[ClipKey]) -> dict[str, Any]:
        """Encode clips.

        Args:
            video: clips of one shape, uint8 (b, t, h, w, 3).
            keys: a key per clip; random numbers may depend on nothing else.

        Returns:
            `mean` and `logvar`, or `latents`, each (b, n, y, x, z). A device may still compute
            them.
        """
        ...


class LatentsEncoder:
    """The encoder of a codec: gives posteriors, or samples of them."""

    def __init__(self, codec: Codec, *, sample: bool, seed: int):
        """Set up an encoder.

        Args:
            codec: the codec of the model.
            sample: whether to give `latents`, sampled from the posterior, in place of its `mean`
                and `logvar`.
            seed: seed of the samples.
        """
        self._codec, self._sample, self._key = codec, sample, jax.random.key(seed)
        self.limits = ClipLimits(
            temporal_compression=codec.vae.temporal_compression,
            smallest=codec.vae.config.spatial_compression,
        )

    def __call__(
        self, video: UInt8[np.ndarray, "b t h w 3"], keys: Sequence[tuple[int, int]]
    ) -> dict[str, Float[Array, "b n y x z"]]:
        """Encode clips to float32 arrays, as `ClipEncoder` says.

        Args:
            video: clips of one shape.
            keys: a `ClipKey` per clip; its sample depends only on this key and on the seed.
        """
        posterior = self._codec.posterior(video)
        if not self._sample:
            return {"mean": posterior.mean, "logvar": posterior.logvar}
        numbers = np.asarray(keys, np.uint32)
        return {"latents": posterior.sample(_clip_keys(self._key, numbers))}


@jax.jit
def _clip_keys(key: Key[Array, ""], numbers: UInt32[Array | np.ndarray, "b 2"]) -> Key[Array, " b"]:
    """Fold the numbers of a file and of a clip, which a row holds, into a random key."""
    fold = jax.random.fold_in
    return jax.vmap(lambda row: fold(fold(key, row[0]), row[1]))(numbers)


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A video or an image of the data that is encoded."""

    source: Source
    """Source that has the file: the videos, or the images."""
    index: int
    """Number of the file in `source`."""
    number: int
    """Number of the file among all videos and images."""
    kind: MediaKind
    name: str
    """Name of the file in records."""

    @property
    def full_name(self) -> str:
        """Name of the file in lists of files to leave out."""
        return self.source.name(self.index)


@dataclasses.dataclass(frozen=True)
class FileEnd:
    """The end of a file's clips, and whether the file was good."""

    left_frames: int
    """Frames at the end that were too few for a clip."""
    bad: str | None = None
    """Why the file is left out; None for a good file."""


def read_clips_and_end(
    file: SourceFile, config: LatentsConfig, limits: ClipLimits
) -> Iterator[DatasetClip | FileEnd]:
    """Yield the clips of a file, then its end."""
    try:
        left = yield from read_clips(file.source[file.index], file.kind, config, limits)
        yield FileEnd(left)
    except MemoryError:
        raise
    except Exception as error:  # damaged data makes libraries raise errors of any type
        yield FileEnd(0, one_line(error))


@dataclasses.dataclass(frozen=True)
class _Record:
    """A packed record in the temporary file of a `ShardBuilder`."""

    metadata: RecordMetadata
    sums: ChannelSums
    offset: int
    size: int


class ShardBuilder:
    """Makes one shard.

    Packed records wait in a temporary file until all files have been read: only then it is known
    which files are bad, and which order records have.
    """

    def __init__(
        self,
        folder: Path,
        *,
        encoder: ClipEncoder,
        config: LatentsConfig,
        metadata: Callable[[SourceFile, int, DatasetClip], RecordMetadata],
    ):
        """Begin a shard.

        Args:
            folder: an empty folder for the temporary file.
            encoder: encodes clips.
            config: what is encoded, and how it is stored.
            metadata: gives the metadata of a clip, from its file and its number in the file.
        """
        self._encoder, self._config, self._metadata = encoder, config, metadata
        self._packed = (folder / "records").open("w+b")
        self._records: dict[ClipKey, _Record] = {}
        self._bad: dict[int, str] = {}
        self._left_frames = 0
        self._groups: dict[tuple[int, ...], list] = collections.defaultdict(list)
        self._waiting: tuple[list[RecordMetadata], dict[str, Any]] | None = None

    def encode(
        self, files: Sequence[SourceFile], events: Iterator[DatasetClip | FileEnd]
    ) -> Iterator[SourceFile]:
        """Encode the clips of files.

        Args:
            files: the files of the shard.
            events: the clips and the ends of these files, in order; later ones are left alone.

        Yields:
            Each file, once it has been read.
        """
        for file in files:
            clip = 0
            while isinstance(event := next(events), DatasetClip):
                self._add(self._metadata(file, clip, event), event.video)
                clip += 1
            self._left_frames += event.left_frames
            if event.bad is not None:
                self._bad[file.number] = event.bad
            yield file
        for group in self._groups.values():
            self._send(group)
        self._store()

    def finish(self, files: Sequence[SourceFile], shard: Path) -> dict[str, Any]:
        """Write the shard.

        Returns:
            Fields of its `FinishedShard`.

        Raises:
            UserError: there are many files, and all of them are bad.
        """
        bad = {file.full_name: self._bad[file.number] for file in files if file.number in self._bad}
        if len(bad) == len(files) >= _TOO_MANY_BAD:
            name, reason = next(iter(bad.items()))
            raise UserError(
                f"None of {len(bad)} files in a row can be encoded; {name}: {reason} If they are "
                "really bad, leave them out with --exclude."
            )
        kept = [self._records[key] for key in sorted(self._records) if key[0] not in self._bad]
        packed = ((record.metadata, self._read(record)) for record in kept)
        places = write_shard(shard, packed, self._config.format)
        rows = [
            {**vars(place), **_row(record.metadata)}
            for record, place in zip(kept, places, strict=True)
        ]
        return {
            "rows": rows,
            "bad": bad,
            "left_frames": self._left_frames,
            "sums": [record.sums for record in kept],
        }

    def close(self) -> None:
        """Close the temporary file; the caller removes its folder."""
        self._packed.close()

    def _add(self, metadata: RecordMetadata, video: np.ndarray) -> None:
        group = self._groups[video.shape]
        group.append((metadata, video))
        if len(group) == self._config.batch:
            self._send(group)

    def _send(self, group: list[tuple[RecordMetadata, np.ndarray]]) -> None:
        """Encode clips of one shape. While the device works, the clips before them are stored."""
        if not group:
            return
        entries = [metadata for metadata, _ in group]
        # Copies of the last clip fill the batch, since another batch size would be compiled anew.
        filled = group + group[-1:] * (self._config.batch - len(group))
        videos = [video for _, video in filled]
        video = np.stack(videos) if len(videos) > 1 else videos[0][None]  # a single clip may be big
        arrays = self._encoder(video, [(metadata.item, metadata.clip) for metadata, _ in filled])
        group.clear()
        self._store()
        self._waiting = entries, arrays

    def _store(self) -> None:
        if self._waiting is None:
            return
        entries, arrays = self._waiting
        self._waiting = None
        on_host = {name: np.asarray(array) for name, array in arrays.items()}
        for number, metadata in enumerate(entries):
            # `_append` finds numbers that overflow.
            with np.errstate(over="ignore"):
                stored = {
                    name: np.ascontiguousarray(array[number]).astype(self._config.store)
                    for name, array in on_host.items()
                }
            self._append(metadata, stored)

    def _append(self, metadata: RecordMetadata, arrays: dict[str, np.ndarray]) -> None:
        if not all(np.isfinite(array).all() for array in arrays.values()):
            self._bad.setdefault(
                metadata.item,
                f"frame {metadata.start} and those after it have latents that are no finite "
                f"{self._config.store} numbers.",
            )
            return
        data = pack(metadata, arrays)
        offset = self._packed.tell()
        self._packed.write(data)
        self._records[metadata.item, metadata.clip] = _Record(
            metadata, ChannelSums.of(arrays), offset, len(data)
        )

    def _read(self, record: _Record) -> bytes:
        self._packed.seek(record.offset)
        return self._packed.read(record.size)


def _row(metadata: RecordMetadata) -> dict[str, Any]:
    """The fields of a line of the index: those that differ between records, and are short."""
    left_out = ("weights", *LATENT_SCALE, "seconds")
    return {name: value for name, value in vars(metadata).items() if name not in left_out}

"""Where training data lies: one small interface over folders, lists, shards and catalogs."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

from cvvae_jax.config import ConfigError
from cvvae_jax.data import files, record_shards, tar_shards, tfds_source
from cvvae_jax.data.media import Kind, Media

Split = Literal["train", "eval", "all"]

_HOLD_OUT_EVERY = 10
_READERS: tuple[tuple[Callable[[str], bool], Callable[[str, Kind], "Source"]], ...] = (
    (tfds_source.is_catalog, tfds_source.TFDSSource),
    (files.is_manifest, files.Manifest),
    (record_shards.are_shards, record_shards.RecordShards),
    (tar_shards.are_shards, tar_shards.TarShards),
    (lambda place: True, files.Files),
)


@runtime_checkable
class Source(Protocol):
    """Media by number. It is sent to every worker process: it holds places, not open files."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Media:
        """Medium `index`.

        Raises:
            ConfigError: it cannot be read.
        """
        ...

    def name(self, index: int) -> str:
        """What messages and lists of exclusions call it, found without reading it."""
        ...


def open_source(
    place: str, kind: Kind, *, split: Split = "all", exclude: str | None = None
) -> Source:
    """The videos or the images of a place.

    Args:
        place: a folder, searched recursively, or a pattern (`clips/**/*.mp4`); a list (.csv or
            .jsonl with a column `path`); ArrayRecord or tar shards, or the folder that they are in;
            `tfds:NAME`. All but ArrayRecord may be an address that fsspec knows (gs://, s3://).
        kind: which of its media.
        split: "all"; or, of each ten, the first for "eval" and the others for "train". A single
            one is for "train".
        exclude: a file of names to leave out, one a line, as `data check` writes it.

    Raises:
        ConfigError: there is no such place, or nothing for the split in it.
    """
    reader = next(reader for fits, reader in _READERS if fits(place))
    source = reader(place, kind)
    numbers = range(len(source))
    if exclude is not None:
        names = _excluded_names(exclude)
        numbers = [i for i in numbers if _key(source.name(i)) not in names]
    held_out = numbers[::_HOLD_OUT_EVERY] if len(numbers) > 1 else []
    match split:
        case "all":
            chosen = numbers
        case "eval":
            chosen = held_out
        case "train":
            chosen = [number for i, number in enumerate(numbers) if i % _HOLD_OUT_EVERY]
            chosen = chosen or numbers
    if not chosen:
        raise ConfigError(_nothing_left(place, kind, source, numbers))
    return Subset(source, chosen)


def open_sources(place: str, *, exclude: str | None = None) -> dict[Kind, Source]:
    """The videos and the images of a place, as far as it has any; `open_source` explains it.

    Raises:
        ConfigError: it has neither.
    """
    found, errors = {}, []
    for kind in get_args(Kind):
        try:
            found[kind] = open_source(place, kind, exclude=exclude)
        except ConfigError as error:
            errors.append(str(error))
    if not found:
        raise ConfigError(" ".join(dict.fromkeys(errors)))
    return found


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some media of a source, in the order of their numbers."""

    source: Source
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Media:
        """Medium `index` of the chosen ones."""
        return self.source[self.numbers[index]]

    def name(self, index: int) -> str:
        """Its name in the source."""
        return self.source.name(self.numbers[index])


def write_exclusions(path: Path, bad: dict[str, str]) -> None:
    """Write a file for `exclude`: {name: reason}, a line each."""
    lines = [f"{_key(name)}\t{' '.join(reason.split())}\n" for name, reason in bad.items()]
    path.write_text("".join(lines))


def _excluded_names(path: str) -> set[str]:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"{path}, the list of exclusions, cannot be read: {error}.") from error
    return {_key(line.split("\t")[0]) for line in lines if line.strip()}


def _key(name: str) -> str:
    """A name that doesn't depend on where the command runs."""
    return name if "://" in name or name.startswith("tfds:") else os.path.abspath(name)


def _nothing_left(place: str, kind: Kind, source: Source, numbers: Sequence[int]) -> str:
    if not numbers:
        return f"{place}: all of its {len(source)} {kind} files are excluded."
    return (
        f"{place} holds a single {kind} file, {source.name(numbers[0])}, so that none is left "
        f"unseen to evaluate on: add {kind}s, or name other videos with --data.eval-videos."
    )

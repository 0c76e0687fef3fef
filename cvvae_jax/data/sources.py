"""Media of a place, by number, and which of them are held out for evaluation."""

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

from cvvae_jax.config.places import at_home, is_remote
from cvvae_jax.data import arrays, files, record_shards, tar_shards, tfds_source
from cvvae_jax.errors import UserError, visible
from cvvae_jax.resumable.files import written_aside
from cvvae_jax.video_io.containers import reason
from cvvae_jax.video_io.media_types import Media, MediaKind, NothingFound

HeldOut = Mapping[str, bool]
"""Whether each file is held out, by `key_of` the file."""
HeldOutByKind = Mapping[MediaKind, HeldOut]
"""`HeldOut` for each kind of media, for all files that a run has seen."""

_SHARE = 0.1


def key_of(place: str, name: str) -> str:
    """The key that decides whether a file is held out: its path relative to the place.

    Args:
        place: the place, as `open_source` takes it.
        name: the file's name in the source.
    """
    root = at_home(place)
    if glob.has_magic(root) or not (is_remote(root) or os.path.isdir(root)):
        fixed = root[: next((i for i, letter in enumerate(root) if letter in "*?[{"), len(root))]
        root = fixed.rpartition("/")[0]
    return name.removeprefix(f"{root.rstrip('/')}/") if root else name


def held_out(keys: Sequence[str], known: HeldOut | None = None) -> list[bool]:
    """Whether each file is held out: about one in ten is, by a hash of its key.

    Of two files and more, at least one is held out and at least one isn't.

    Args:
        keys: the keys of all files of a place.
        known: earlier decisions, which stay.
    """
    known = known or {}
    drawn = [_drawn(key) for key in keys]
    sides = [known.get(key, number < _SHARE) for key, number in zip(keys, drawn, strict=True)]
    new = [i for i, key in enumerate(keys) if key not in known]
    if len(set(keys)) > 1 and new and len(set(sides)) == 1:
        # There are few files, and the hash holds out all of them or none.
        nearest = (min if not sides[0] else max)(new, key=drawn.__getitem__)
        sides = [not side if keys[i] == keys[nearest] else side for i, side in enumerate(sides)]
    elif len(set(keys)) == 1 and new:
        sides = [False] * len(keys)
    return sides


def _drawn(key: str) -> float:
    """A pseudo-random number in [0, 1) that depends on the key alone."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


Split = Literal["train", "eval", "all"]

_READERS: tuple[tuple[Callable[[str], bool], Callable[[str, MediaKind], "Source"]], ...] = (
    (arrays.is_arrays, arrays.opened),
    (tfds_source.is_tfds, tfds_source.TFDSSource),
    (files.is_file_list, files.FileList),
    (record_shards.are_shards, record_shards.RecordShards),
    (tar_shards.are_shards, tar_shards.TarShards),
    (lambda place: True, files.Files),
)


@runtime_checkable
class Source(Protocol):
    """Media by number. A source is sent to every worker process, so it holds no open files."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Media:
        """Medium `index`.

        Raises:
            UserError: it cannot be read.
        """
        ...

    def name(self, index: int) -> str:
        """Name of a medium in messages and exclusions, found without reading the medium."""
        ...


def open_source(
    place: str,
    kind: MediaKind,
    *,
    split: Split = "all",
    exclude: str | None = None,
    known: HeldOut | None = None,
) -> Source:
    """The videos or the images of a place.

    Args:
        place: a folder, searched recursively, or a pattern (`clips/**/*.mp4`); a list (.csv or
            .jsonl with a column `path`); ArrayRecord or tar shards, or the folder that they are in;
            `tfds:NAME`; or what `from_arrays` returned. All but ArrayRecord may be an address that
            fsspec knows (gs://, s3://).
        kind: which kind of its media.
        split: "eval" for the held-out media, "train" for the others, or "all". `held_out` decides;
            a single medium belongs to "train".
        exclude: a file of names to leave out, one a line, as `data check` writes it.
        known: earlier decisions on which media are held out.

    Raises:
        UserError: there is no such place, or it holds no media for the split.
    """
    place = at_home(place)
    reader = next(reader for fits, reader in _READERS if fits(place))
    source = reader(place, kind)
    chosen = _part(place, source, split, known)
    if not chosen:
        raise _nothing_left(place, kind, source, split)
    if exclude is not None:
        names = _excluded_names(exclude)
        kept = [number for number in chosen if _key(source.name(number)) not in names]
        if not kept:
            raise NothingFound(f"{place}: all {len(chosen)} {kind} files of it are excluded.")
        chosen = kept
    return Subset(source, chosen)


def _part(place: str, source: Source, split: Split, known: HeldOut | None) -> Sequence[int]:
    """Numbers of a split's media. Exclusions come later, so that they move no medium from one
    split to the other."""
    numbers = range(len(source))
    if split == "all":
        return numbers
    sides = held_out([key_of(place, source.name(number)) for number in numbers], known)
    return [number for number in numbers if sides[number] == (split == "eval")]


def _nothing_left(place: str, kind: MediaKind, source: Source, split: Split) -> UserError:
    if split == "train":
        return UserError(
            f"{place}: all {kind} files that are there are held out by this run to measure on: put "
            "back those that it was trained on, or give --workdir another folder."
        )
    if len(source) == 1:
        return UserError(
            f"{place} holds a single {kind} file, {source.name(0)}, so that none is left unseen to "
            f"evaluate on: add {kind}s, or name other videos with --data.eval-videos."
        )
    return UserError(
        f"{place}: this run was trained on all {kind} files that are there: put back those that it "
        "held out to measure on, or name other videos with --data.eval-videos."
    )


def file_sizes(source: Source) -> list[int | None]:
    """Sizes of a source's media in bytes; None for a medium that is not a local file."""
    if isinstance(source, Subset):
        sizes = file_sizes(source.source)
        return [sizes[number] for number in source.numbers]
    names = [source.name(number) for number in range(len(source))]
    if not isinstance(source, files.Files) or any(map(is_remote, names)):
        return [None] * len(names)
    return [os.path.getsize(name) if os.path.exists(name) else None for name in names]


def open_sources(place: str, *, exclude: str | None = None) -> dict[MediaKind, Source]:
    """The sources of a place's videos and images, by kind; a kind without media is left out.

    Args:
        place: as `open_source` takes it.
        exclude: as `open_source` takes it.

    Raises:
        UserError: the place has neither videos nor images.
    """
    found, errors = {}, []
    for kind in get_args(MediaKind):
        try:
            found[kind] = open_source(place, kind, exclude=exclude)
        except NothingFound as error:
            errors.append(str(error))
    if not found:
        raise UserError(" ".join(dict.fromkeys(errors)))
    return found


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some media of a source, in the order of their numbers."""

    source: Source
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Media:
        """Medium `index` of the subset."""
        return self.source[self.numbers[index]]

    def name(self, index: int) -> str:
        """Name of medium `index` of the subset."""
        return self.source.name(self.numbers[index])


def write_exclusions(path: Path, bad: dict[str, str]) -> None:
    """Write a list of exclusions: a line with name, tab and reason for each bad medium. Control
    characters of reasons are written as escapes.

    Raises:
        UserError: the file cannot be written.
    """
    reasons = {name: visible(" ".join(why.split())) for name, why in bad.items()}
    lines = [f"{_written(_key(name))}\t{why}\n" for name, why in reasons.items()]
    try:
        with written_aside(path) as aside:
            aside.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {reason(error)}.") from error


def _excluded_names(path: str) -> set[str]:
    try:
        text = Path(at_home(path)).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path}, the list of exclusions, cannot be read: {error}.") from error
    return {_key(_read(line.split("\t")[0])) for line in text.split("\n") if line.strip()}


def _written(key: str) -> str:
    """A name in a list of exclusions. Names with control characters, such as a line feed, become
    JSON strings; no other name begins with a quotation mark."""
    return json.dumps(key) if visible(_decodable(key)) != _decodable(key) else key


def _decodable(key: str) -> str:
    """A name without the bytes that aren't UTF-8, which are written unchanged."""
    return key.encode(errors="ignore").decode()


def _read(word: str) -> str:
    if word.startswith('"'):
        with contextlib.suppress(ValueError):
            name = json.loads(word)
            return name if isinstance(name, str) else word
    return word


def _key(name: str) -> str:
    """A name that doesn't depend on the working directory."""
    return name if "://" in name or name.startswith("tfds:") else os.path.abspath(at_home(name))

"""`open_weights`: the tensors of PyTorch weight files by their official names, read safely."""

import codecs
import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cvvae_jax.config.places import at_home
from cvvae_jax.convert.files.pickles import ZIP_MAGIC, open_pickle
from cvvae_jax.convert.files.safe_files import open_safetensors
from cvvae_jax.convert.files.source import (
    TensorInfo,
    WeightFile,
    check_not_lfs,
    read_json,
    readable,
)
from cvvae_jax.errors import UserError

_ACCEPTED = (
    "accepted are a run folder, a saved model, a .safetensors file, the index of a sharded one "
    "(.safetensors.index.json), a PyTorch file (.ckpt, .bin, .pt, .pth), or a folder with one of "
    "these"
)
_INDEX = re.compile(r"(?:\.safetensors|\.bin)\.index(\.[\w-]+)?\.json$")
_WEIGHTS = re.compile(r"\.(safetensors|bin|ckpt|pt|pth)$")
_SHARD = re.compile(r"-\d+-of-\d+\.")


@dataclasses.dataclass(frozen=True)
class WeightFiles:
    """Weights on disk, checked by their headers."""

    path: Path
    """The file or folder that holds the weights; of a folder of folders, the one inside."""
    files: tuple[Path, ...]
    """The files with tensors, in order."""
    tensors: dict[str, TensorInfo]
    """All tensors by official name, exactly as in the files, also those that can't be read."""
    config: dict[str, Any] | None
    """The config.json in the same folder; None without one."""
    metadata: dict[str, str]
    """Safetensors' own metadata, empty without any."""
    _sources: tuple[WeightFile, ...] = dataclasses.field(repr=False)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Every named tensor once, in the order of the files, with the shape and type of `tensors`.

        Only one tensor is in memory at a time; the caller may keep the arrays.

        Raises:
            UserError: there is no such tensor, it can't be read, or the files changed or cannot
                be read anymore.
        """
        wanted = dict.fromkeys(names)
        if missing := [name for name in wanted if name not in self.tensors]:
            raise UserError(f"{self.path} holds no tensor {', '.join(missing)}.")
        self.require_readable(wanted)
        for source in self._sources:
            here = [name for name in wanted if name in source.tensors]
            if here:
                yield from source.read(here)

    def require_readable(self, names: Iterable[str]) -> None:
        """Raise UserError where one of these tensors has a fault; others may have any."""
        for name in names:
            if fault := self.tensors[name].fault:
                raise UserError(fault)


def open_weights(path: Path | str) -> WeightFiles:
    """Finds and checks PyTorch weights; tensors are read later, by `WeightFiles.read`.

    `path` is a .safetensors file, a PyTorch pickle (.ckpt, .bin, .pt, .pth; never executed), the
    index of sharded ones, or a folder with one of these. In a folder that has no weights itself,
    `vae` is taken, or the only folder with weights. A file's content counts, not its name.

    Raises:
        UserError: there are no weights at `path`, several, or none that can be trusted.
    """
    path = Path(at_home(path))
    with readable(path):
        if path.is_dir():
            path, file = _find(path)
        elif path.is_file():
            file = path
        elif path.exists():
            raise UserError(f"{path} is neither a file nor a folder; {_ACCEPTED}.")
        else:
            raise UserError(f"{path} does not exist; {_ACCEPTED}.")
        is_index = _INDEX.search(file.name)
        sources = _open_shards(file) if is_index else (_open_file(file),)
        beside = file.parent / "config.json"
        config = read_json(beside) if beside.exists() else None
    tensors = {name: info for source in sources for name, info in source.tensors.items()}
    if not tensors:
        raise UserError(f"{file} holds no tensors.")
    metadata = {key: value for source in sources for key, value in source.metadata.items()}
    files = tuple(source.path for source in sources)
    return WeightFiles(path, files, tensors, config, metadata, sources)


def _find(folder: Path) -> tuple[Path, Path]:
    """The folder with weights in or below `folder`, and the file in it to open."""
    if found := _best_files(folder):
        return folder, _only_file(folder, found)
    inner = {
        child.name: found
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".") and (found := _best_files(child))
    }
    if not inner:
        raise UserError(f"{folder} holds no weights, or shards without index; {_ACCEPTED}.")
    if "vae" not in inner and len(inner) > 1:
        raise UserError(
            f"{folder} holds several folders with weights; name one of "
            f"{', '.join(str(folder / name) for name in inner)}."
        )
    name = "vae" if "vae" in inner else next(iter(inner))
    return folder / name, _only_file(folder / name, inner[name])


def _only_file(folder: Path, found: list[Path]) -> Path:
    if len(found) > 1:
        vae = [folder / "vae"] if (folder / "vae").is_dir() else []
        raise UserError(
            f"{folder} holds several weight files; name one of {', '.join(map(str, found + vae))}."
        )
    return found[0]


def _best_files(folder: Path) -> list[Path]:
    """The weight files in `folder` that go before all others, by name."""
    ranked = [
        (rank, path)
        for path in sorted(folder.iterdir())
        if (rank := _rank(path.name)) is not None and path.is_file()
    ]
    return [path for rank, path in ranked if rank == min(ranked)[0]]


def _rank(name: str) -> tuple[bool, bool, bool, bool] | None:
    """Diffusers' own name first, then safetensors without a variant, its index, variants (fp16 and
    the like), and PyTorch's files in the same order; None for files without weights, and for shards
    (their index stands for them)."""
    index = _INDEX.search(name)
    if not index and (not _WEIGHTS.search(name) or _SHARD.search(name)):
        return None
    stem = _INDEX.sub("", name) if index else _WEIGHTS.sub("", name)
    variant = "." in stem or bool(index and index[1])
    safe = ".safetensors" in name
    return (not name.startswith("diffusion_pytorch_model."), not safe, variant, bool(index))


def _open_file(path: Path) -> WeightFile:
    """Opens a file by its content: endings are many, and what is read is safe by any name."""
    with readable(path), path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise UserError(f"{path} is empty; {_ACCEPTED}.")
    check_not_lfs(path, head)
    if _is_text(head):
        raise UserError(f"{path} is text (a web page?), not weights; {_ACCEPTED}.")
    # The first 8 bytes of a safetensors file are a length, which could look like a pickle's.
    if head[8:9] == b"{":
        return open_safetensors(path)
    if head.startswith(ZIP_MAGIC) or re.match(rb"\x80[\x02-\x05]", head):
        if path.suffix == ".safetensors":  # torch goes by this name, not by the content
            raise UserError(
                f"{path} is a PyTorch pickle, not safetensors: rename it to {path.stem}.pt."
            )
        return open_pickle(path)
    if path.suffix == ".safetensors":
        return open_safetensors(path)  # damaged; its error says how
    raise UserError(f"{path} holds neither safetensors nor a file of PyTorch; {_ACCEPTED}.")


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the end may be cut
    except UnicodeDecodeError:
        return False
    return not re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text)


def _open_shards(index: Path) -> tuple[WeightFile, ...]:
    """All files of an index; each must hold exactly the tensors that the index places in it."""
    files = _weight_map(index)
    names = sorted(set(files.values()))
    if absent := [name for name in names if not (index.parent / name).is_file()]:
        raise UserError(f"{index} names files that are not beside it: {', '.join(absent)}.")
    sources = tuple(_open_file(index.parent / name) for name in names)
    problems, seen = [], {}
    for name, source in zip(names, sources, strict=True):
        for tensor in source.tensors:
            if tensor in seen:
                problems.append(f"{tensor} is in both {seen[tensor]} and {name}")
            elif files.get(tensor) != name:
                problems.append(f"{tensor} is in {name}, but the index doesn't say so")
            seen[tensor] = name
    problems += [f"{tensor} is not in {files[tensor]}" for tensor in files if tensor not in seen]
    if problems:
        rest = ["..."] if len(problems) > 5 else []
        raise UserError(f"{index} and its files disagree: {'; '.join(problems[:5] + rest)}.")
    return sources


def _weight_map(index: Path) -> dict[str, str]:
    """File names by tensor name."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise UserError(f"{index} must have a weight_map from tensor names to file names.")
    for tensor, name in files.items():
        # Names only, so that an index cannot reach other folders. A file beside it may be a link:
        # the cache of the Hugging Face Hub consists of links.
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\:\x00]+", name) or name == "..":
            raise UserError(
                f"{index} places {tensor} in {name!r}; accepted are plain names of files beside it."
            )
    return files

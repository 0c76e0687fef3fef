"""Models written to disk, whole or not at all: as official weights, or as ours."""

import contextlib
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cvvae_jax import checkpoint, parameter_paths
from cvvae_jax.convert.convert import official_shapes, to_official
from cvvae_jax.convert.names import LayerName
from cvvae_jax.convert.official_config import exportable
from cvvae_jax.errors import UserError
from cvvae_jax.resumable.lock import locked

_TAGS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_LONGEST_NAME = 255  # bytes
WEIGHTS = "diffusion_pytorch_model.safetensors"

# What the two kinds of folder consist of.
_OFFICIAL = {WEIGHTS, "config.json", "README.md"}
_OF_ORBAX = {"_CHECKPOINT_METADATA", "commit_success.txt"}
_OURS = {"weights", "model", "manifest.json", "README.md", *_OF_ORBAX}


@contextlib.contextmanager
def new_folder(path: Path, *, size: int, overwrite: bool) -> Iterator[Path]:
    """A place to write a folder, which is moved to `path` at the end, or removed after an error.

    Args:
        path: the folder to be.
        size: bytes that will be written, at least.
        overwrite: whether a model that is there already is replaced, once the new one is whole.

    Raises:
        UserError: something is there that may not be replaced, somebody else writes it at the
            moment, or the disk is full or not writable.
    """
    try:
        path = path.resolve()
        partial, replaced = (_beside(path, state) for state in ("new", "old"))
        _check_parent(path, size=size)
        partial.mkdir(exist_ok=True)
        lock = partial / "lock"
        with locked(lock, f"{path} is being written by another process"):
            try:
                _clear_up(path, partial, replaced)
                _check_vacant(path, overwrite=overwrite)
                yield partial / path.name
                _check_vacant(path, overwrite=overwrite)  # it may have come meanwhile
                if path.exists():
                    path.rename(replaced)
                (partial / path.name).rename(path)
            finally:
                _clear_up(path, partial, replaced)
                lock.unlink()
                with contextlib.suppress(OSError):  # another process has just begun to wait here
                    partial.rmdir()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {checkpoint.system_reason(error)}.") from error


def _beside(path: Path, state: str) -> Path:
    """Where a folder's new or old state lies meanwhile; the same for every process."""
    name = f".{path.name}.convert-{state}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.convert-{state}"
    return path.with_name(name)


def _clear_up(path: Path, partial: Path, replaced: Path) -> None:
    """Removes what this run, or one that was killed, left behind; an old model without a successor
    comes back."""
    if replaced.exists() and not path.exists():
        replaced.rename(path)
    shutil.rmtree(replaced, ignore_errors=True)
    shutil.rmtree(partial / path.name, ignore_errors=True)


def write_ours(model: Any, path: Path) -> None:
    """Writes a model as a checkpoint of ours."""
    try:
        checkpoint.save_model(path, model)
    except ValueError as error:  # TensorStore's
        raise OSError(checkpoint.system_reason(error)) from error


def write_official(model: Any, path: Path) -> None:
    """Writes official tensors and config.json, as `from_pretrained` reads them.

    Raises:
        UserError: no official class can hold the model.
    """
    family, config = exportable(model)
    rows = family.layer_names(model.config)
    path.mkdir()
    with (path / WEIGHTS).open("wb") as file:
        file.write(_header(model, rows))
        for _, tensor in to_official(model, rows):
            file.write(tensor.view(np.uint8).data)
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _header(model: Any, rows: list[LayerName]) -> bytes:
    """The head of a safetensors file. The library takes whole models only, so that a model would be
    in memory twice; a test holds that it reads what is written here."""
    entries, end = {"__metadata__": {"format": "pt"}}, 0
    leaves = parameter_paths.flatten(model)
    for path, (name, shape) in official_shapes(model, rows).items():
        start, end = end, end + leaves[path].nbytes
        tag = _TAGS[leaves[path].dtype.name]
        entries[name] = {"dtype": tag, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # so that tensors are aligned
    return struct.pack("<Q", len(text)) + text


def size_of(model: Any) -> int:
    """Bytes of a model's parameters."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(model))


def _check_parent(path: Path, *, size: int) -> None:
    if path.suffix in (".safetensors", ".ckpt", ".bin", ".pt", ".pth"):
        raise UserError(f"{path} looks like a file; a model is written as a folder.")
    if not path.parent.is_dir():
        raise UserError(f"{path} cannot be written: there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path} cannot be written: {path.parent} is not writable.")
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise UserError(
            f"{path} cannot be written: it takes {size / 1e6:.0f} MB, and {path.parent} has "
            f"{free / 1e6:.0f} MB left."
        )


def _check_vacant(path: Path, *, overwrite: bool) -> None:
    """Refuses to replace anything that `convert` would not have written."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    others = [] if path.is_dir() else [path.name]
    if path.is_dir():
        ours = _OURS if checkpoint.holds_model(path) else _OFFICIAL
        others = sorted({entry.name for entry in path.iterdir()} - ours)
    if others:
        raise UserError(
            f"{path} exists and holds more than a model ({', '.join(others[:5])}), which "
            "overwriting would lose; name another folder."
        )
    if not overwrite:
        raise UserError(f"{path} exists; --overwrite replaces it.")

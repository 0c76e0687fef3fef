"""Models written to disk, whole or not at all: as official weights, or as ours."""

import contextlib
import json
import os
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cvvae_jax import checkpoint, paths
from cvvae_jax.config import ConfigError
from cvvae_jax.convert.convert import official_shapes, to_official
from cvvae_jax.convert.names import Row
from cvvae_jax.convert.official_config import exportable

_TAGS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@contextlib.contextmanager
def new_folder(path: Path, *, size: int, overwrite: bool) -> Iterator[Path]:
    """A place to write a folder, which is moved to `path` at the end, or removed after an error.

    Args:
        path: the folder to be.
        size: bytes that will be written, at least.
        overwrite: whether a model that is there already is replaced, once the new one is whole.

    Raises:
        ConfigError: something is there that may not be replaced, or the disk is full or not
            writable.
    """
    path = path.resolve()
    partial, replaced = (path.with_name(f".{path.name}.{what}") for what in ("partial", "replaced"))
    _check_target(path, size=size, overwrite=overwrite)
    try:
        _clear_up(path, partial, replaced)
        partial.mkdir()
        yield partial / path.name
        if path.exists():
            path.rename(replaced)
        (partial / path.name).rename(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {_reason(error)}.") from error
    finally:
        _clear_up(path, partial, replaced)


def _clear_up(path: Path, partial: Path, replaced: Path) -> None:
    """Removes what this run, or one that was killed, left behind; an old model without a successor
    comes back."""
    if replaced.exists() and not path.exists():
        replaced.rename(path)
    for left_behind in (partial, replaced):
        shutil.rmtree(left_behind, ignore_errors=True)


def write_ours(model: Any, path: Path) -> None:
    """Writes a model as a checkpoint of ours."""
    try:
        checkpoint.save_model(path, model)
    except ValueError as error:  # TensorStore's
        raise OSError(_reason(error)) from error


def write_official(model: Any, path: Path) -> None:
    """Writes official tensors and config.json, as `from_pretrained` reads them.

    Raises:
        ConfigError: no official class can hold the model.
    """
    family, config = exportable(model)
    rows = family.rows(model.config)
    path.mkdir()
    with (path / WEIGHTS).open("wb") as file:
        file.write(_header(model, rows))
        for _, tensor in to_official(model, rows):
            file.write(tensor.view(np.uint8).data)
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _header(model: Any, rows: list[Row]) -> bytes:
    """The head of a safetensors file. The library takes whole models only, so that a model would be
    in memory twice; a test holds that it reads what is written here."""
    entries, end = {"__metadata__": {"format": "pt"}}, 0
    leaves = paths.flatten(model)
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


def _check_target(path: Path, *, size: int, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: there is no folder {path.parent}.")
    if path.exists():
        if not overwrite:
            raise ConfigError(f"{path} exists; --overwrite replaces it.")
        if not _is_model(path):
            raise ConfigError(f"{path} is not a model, so it is not overwritten.")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path} cannot be written: {path.parent} is not writable.")
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise ConfigError(
            f"{path} cannot be written: it takes {size / 1e6:.0f} MB, and {path.parent} has "
            f"{free / 1e6:.0f} MB left."
        )


def _reason(error: Exception) -> str:
    """What the system said; TensorStore wraps its number in a text of its own."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(number[1])) if number else str(error).splitlines()[0]


def _is_model(path: Path) -> bool:
    """Whether this is a folder that `convert` may have written."""
    official = (path / WEIGHTS).is_file() and (path / "config.json").is_file()
    return official or checkpoint.holds_model(path)

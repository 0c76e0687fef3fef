"""Files of a study: whole or not there, so that a killed command can go on."""

import json
import os
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

Tree = TypeVar("Tree")


def write_text(path: Path, text: str) -> None:
    """Writes a whole file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def write_json(path: Path, values: Any) -> None:
    """Writes numbers as JSON.

    Raises:
        ValueError: one is NaN or infinite.
    """
    write_text(path, json.dumps(values, indent=1, allow_nan=False))


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays by name, as .npz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    np.savez(aside, **arrays)
    os.replace(aside, path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def write_tree(path: Path, tree: Any) -> None:
    """Writes the arrays of a pytree, such as a model, by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    write_arrays(path, {jax.tree_util.keystr(where): np.asarray(leaf) for where, leaf in leaves})


def read_tree(path: Path, like: Tree) -> Tree:
    """A pytree of this structure with the arrays of a file.

    Raises:
        ValueError: the file holds other arrays.
    """
    arrays = read_arrays(path)
    leaves = jax.tree_util.tree_leaves_with_path(like)
    names = {jax.tree_util.keystr(where): leaf for where, leaf in leaves}
    shapes = {name: np.shape(leaf) for name, leaf in names.items()}
    if shapes != {name: array.shape for name, array in arrays.items()}:
        raise ValueError(f"{path} holds other arrays than the model has.")
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in names])

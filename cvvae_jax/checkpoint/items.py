"""Items of a checkpoint: written, described and read; each read is checked against the manifest."""

import contextlib
import dataclasses
import os
import re
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from cvvae_jax import parameter_paths
from cvvae_jax.checkpoint import steps
from cvvae_jax.checkpoint.orbax_saving import quiet
from cvvae_jax.config.places import at_home
from cvvae_jax.errors import UserError
from cvvae_jax.resumable import manifest
from cvvae_jax.resumable.files import sync

Tree = TypeVar("Tree")

# Bytes. Files up to this are hashed even where an answer must be quick, and arrays up to this are
# written in one piece.
_SMALL = 2**20


def arrays_handler() -> ocp.PyTreeCheckpointHandler:
    """How arrays are written.

    Trained weights are noise to a compressor: it takes longer than the disk and saves 7 percent.
    Zarr 3 is written twice as fast as Orbax's default, zarr 2. Devices that hold the same array
    share its writing only where it is large: cutting 500 small ones into slices for 8 devices
    takes a second, in which training waits.
    """
    types = ocp.type_handlers
    registry = types.create_type_handler_registry(
        (np.ndarray, types.NumpyHandler()),
        (jax.Array, types.ArrayHandler(min_slice_bytes_for_replica_parallel=_SMALL)),
    )
    return ocp.PyTreeCheckpointHandler(
        use_compression=False, use_zarr3=True, type_handler_registry=registry
    )


def save_model(path: Path | str, model: Any) -> None:
    """Writes a model alone, so that `load` can read it.

    Raises:
        UserError: `path` exists.
    """
    path = Path(at_home(path)).absolute()
    if path.exists():
        raise UserError(f"{path} exists; a model is never written over another.")
    json, weights = ocp.JsonCheckpointHandler(), arrays_handler()
    items = {
        "weights": ocp.args.PyTreeSave(parameter_paths.flatten(model)),
        "model": ocp.args.JsonSave(describe_model(model)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}{steps.PARTIAL}-") as own:
        written = Path(own) / path.name
        handler = ocp.CompositeCheckpointHandler(weights=weights, model=json)
        with quiet(), ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(written, args=ocp.args.Composite(**items))
        manifest.write(written)
        written.rename(path)
    sync(path.parent)


def find_model(path: Path | str) -> Path | None:
    """The folder of items that a path means: itself, or the newest checkpoint of a run folder; None
    where it holds none."""
    path = Path(at_home(path)).absolute()
    for folder in (path, path / "checkpoints"):
        for step in reversed(steps.finished(folder)):
            found = folder / str(step)
            # One of a run is never passed over: what it lacks is to be said.
            ours = folder.name == "checkpoints" or (found / manifest.NAME).exists()
            if ours or holds_model(found):
                return found
        if holds_model(folder):
            return folder
    return None


def holds_model(folder: Path) -> bool:
    """Whether a folder has the items of a model."""
    return (folder / "weights").is_dir() and (folder / "model").is_dir()


def read_description(folder: Path) -> dict:
    """Which model a folder of items holds: its class as `model` and the fields of its config.

    Raises:
        UserError: it can't be read.
    """
    check_files(folder, "model")
    return _restore_item(folder, "model", ocp.args.JsonRestore())


def read_config(folder: Path) -> dict:
    """The configuration of the run that a checkpoint is of.

    Raises:
        UserError: it can't be read.
    """
    check_files(folder, "config")
    return _restore_item(folder, "config", ocp.args.JsonRestore())


def restore_model(folder: Path, target: Tree, *, shardings: Any = None, raw: bool = False) -> Tree:
    """The weights of a folder of items, in the structure and types of `target`.

    Args:
        folder: what `find_model` returned.
        target: the model's shapes and types.
        shardings: where every parameter lies, a tree like the target; None: numpy arrays.
        raw: the parameters as the optimizer left them, not their average; only runs have them.

    Raises:
        UserError: they can't be read, or don't fit.
    """
    if raw and not (folder / "state").is_dir():
        raise UserError(f"{folder} has no train state, so only its averaged weights are there.")
    item, prefix = ("state", "model/") if raw else ("weights", "")
    layout = parameter_paths.flatten(shardings) if shardings is not None else {}
    wanted = parameter_paths.flatten(target)
    problems = _misfits(wanted, _stored(folder, item), prefix)
    if problems:
        listed = "; ".join(problems)
        raise UserError(f"{folder}: the weights don't fit their config: {listed}.")
    check_files(folder, item)
    leaves = {prefix + path: leaf for path, leaf in wanted.items()}
    arguments = {
        prefix + path: _restore_args(leaf, layout.get(path)) for path, leaf in wanted.items()
    }
    how = ocp.args.PyTreeRestore(item=leaves, restore_args=arguments, partial_restore=raw)
    restored = _restore_item(folder, item, how)
    return parameter_paths.unflatten(
        target, {p.removeprefix(prefix): v for p, v in restored.items()}
    )


def _restore_args(leaf: Any, sharding: jax.sharding.Sharding | None) -> ocp.RestoreArgs:
    if sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)
    return ocp.ArrayRestoreArgs(sharding=sharding, dtype=leaf.dtype)


def restore_state(folder: Path, target: Tree, shardings: Any) -> tuple[Tree, list[str]]:
    """The train state of a checkpoint whose files have been checked.

    Args:
        folder: the checkpoint.
        target: the state's shapes and types.
        shardings: where every leaf lies, a tree like the target.

    Returns:
        The state, and which types it had on disk where they were others, in words.

    Raises:
        UserError: the state doesn't fit the target, that is the run's configuration, or can't be
            read.
    """
    layout, wanted = parameter_paths.flatten(shardings), parameter_paths.flatten(target)
    stored = check_state(folder, target)
    arguments = {path: _restore_args(leaf, layout[path]) for path, leaf in wanted.items()}
    how = ocp.args.PyTreeRestore(item=wanted, restore_args=arguments)
    restored = parameter_paths.unflatten(target, _restore_item(folder, "state", how))
    casts = {
        f"{path.split('/')[0]} {stored[path].dtype} -> {leaf.dtype}": None
        for path, leaf in wanted.items()
        if stored[path].dtype != leaf.dtype
    }
    return restored, list(casts)


def check_state(folder: Path, target: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type of every array of a checkpoint's train state, by flat path.

    Args:
        folder: the checkpoint.
        target: the shapes that it is to have.

    Raises:
        UserError: it has others, so that it is not of this run's configuration, or can't be read.
    """
    stored = _stored(folder, "state")
    problems = _misfits(parameter_paths.flatten(target), stored, "")
    if problems:
        listed = "; ".join(problems[:3]) + ("; ..." if len(problems) > 3 else "")
        raise UserError(
            f"{folder} doesn't fit this run: it is of other networks, or of an objective with or "
            f"without a discriminator (give --workdir another folder): {listed}."
        )
    return stored


def incompleteness(folder: Path) -> list[str]:
    """As `manifest.problems`, but large files are compared by their sizes alone."""
    return manifest.problems(folder, hash_up_to=_SMALL)


def _misfits(wanted: dict[str, Any], stored: dict[str, Any], prefix: str) -> list[str]:
    """Names or shapes other than the config's, in words; Orbax would pass over some."""
    own = {path.removeprefix(prefix) for path in stored if path.startswith(prefix)}
    problems = [f"{path} is missing" for path in wanted if path not in own]
    problems += [f"{path} has no place" for path in own if path not in wanted]
    return problems + [
        f"{path} is {stored[prefix + path].shape}, not {leaf.shape}"
        for path, leaf in wanted.items()
        if path in own and stored[prefix + path].shape != leaf.shape
    ]


def check_files(folder: Path, *items: str, hash_up_to: int | None = None) -> None:
    """Refuses items whose files are not what they were when they were written, or that have no
    manifest, as half of a copy may have none.

    Args:
        folder: of items.
        items: which ones.
        hash_up_to: larger files, in bytes, are compared by size alone; None: all are read.

    Raises:
        UserError: they are damaged; names the files, and the newest older checkpoint of the run
            whose items are whole.
        OSError: a file can't be read now, which is no sign of damage.
    """
    problems = manifest.problems(folder, items=items, hash_up_to=hash_up_to)
    if problems:
        older = _intact_one_before(folder, items)
        advice = f" {older} is whole and can be given instead." if older else ""
        raise UserError(f"{folder} is damaged: {in_short(problems)}.{advice}")


def in_short(problems: list[str]) -> str:
    """The first three, and how many more there are."""
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def _intact_one_before(folder: Path, items: tuple[str, ...]) -> Path | None:
    if not folder.name.isdecimal():
        return None
    for step in reversed(steps.finished(folder.parent)):
        older = folder.parent / str(step)
        if step < int(folder.name) and holds_model(older):
            with contextlib.suppress(OSError):  # it can't be told now
                if not manifest.problems(older, items=items):
                    return older
    return None


def read_shapes(folder: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type of every parameter of a folder of items, as they are stored, by flat path.

    Raises:
        UserError: they can't be read.
    """
    return _stored(folder, "weights")


def _stored(folder: Path, item: str) -> dict[str, jax.ShapeDtypeStruct]:
    check_files(folder, item, hash_up_to=_SMALL)
    try:
        metadata = ocp.PyTreeCheckpointHandler().metadata((folder / item).absolute())
    except Exception as error:  # Orbax raises bare ones for damaged files
        reason = _first_line(error)
        raise UserError(f"{folder}: the item {item} can't be read: {reason}") from error
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in metadata.tree.items()
    }


def _restore_item(folder: Path, name: str, how: ocp.args.CheckpointArgs) -> Any:
    try:
        with quiet(), ocp.Checkpointer(ocp.CompositeCheckpointHandler(name)) as checkpointer:
            return checkpointer.restore(folder, args=ocp.args.Composite(**{name: how}))[name]
    except Exception as error:  # Orbax raises bare ones for damaged files
        reason = _first_line(error)
        raise UserError(f"{folder}: the item {name} can't be read: {reason}") from error


def system_reason(error: Exception) -> str:
    """What the system said when something could not be written; TensorStore wraps its number in a
    text of its own."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(number[1])) if number else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def describe_model(model: Any) -> dict:
    """Which model a tree is, for the item `model`."""
    return {"model": type(model).__name__, "config": dataclasses.asdict(model.config)}

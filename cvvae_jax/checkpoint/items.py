"""The items of a checkpoint: written, described and read.

Whatever is read is compared with the manifest first. Only `restore_state` doesn't compare: its
caller has found the checkpoint to be intact.
"""

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

# Bytes. Files up to this size are hashed even in quick checks, and arrays up to this size are
# written in one piece.
_SMALL = 2**20
_NAME_LENGTH = 40  # of a name that goes into that of a folder aside, which has 255 bytes at most


def arrays_handler() -> ocp.PyTreeCheckpointHandler:
    """The Orbax handler that writes arrays.

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
    """Writes a model without a train state, in the form that `load` reads.

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
    prefix = f"{path.name[:_NAME_LENGTH]}{steps.PARTIAL}-"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as own:
        written = Path(own) / "model"  # Orbax puts something behind it meanwhile
        handler = ocp.CompositeCheckpointHandler(weights=weights, model=json)
        with quiet(), ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(written, args=ocp.args.Composite(**items))
        manifest.write(written)
        written.rename(path)
    sync(path.parent)


def find_model(path: Path | str) -> Path | None:
    """The folder of items at a path: the path itself, or the newest finished checkpoint of a run's
    folder; None where there is none."""
    path = Path(at_home(path)).absolute()
    for folder in (path, path / "checkpoints"):
        for step in reversed(steps.finished(folder)):
            found = folder / str(step)
            # A run's checkpoint is never passed over: an error will say what it lacks.
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
    """Which model a folder of items holds: {"model": its class, "config": fields of its config}.

    Raises:
        UserError: the item `model` can't be read.
    """
    check_files(folder, "model")
    return _restore_item(folder, "model", ocp.args.JsonRestore())


def read_config(folder: Path) -> dict:
    """The configuration of the run that saved a checkpoint.

    Raises:
        UserError: the item `config` can't be read.
    """
    check_files(folder, "config")
    return _restore_item(folder, "config", ocp.args.JsonRestore())


def restore_model(folder: Path, target: Tree, *, shardings: Any = None, raw: bool = False) -> Tree:
    """The weights of a folder of items, in the structure and types of `target`.

    Args:
        folder: what `find_model` returned.
        target: the model's shapes and types.
        shardings: the sharding of every parameter, a tree like the target; None for numpy arrays.
        raw: whether to read the parameters as the optimizer left them instead of their average;
            only checkpoints of runs have them.

    Raises:
        UserError: the weights can't be read, or don't fit the target.
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
    """The train state of a checkpoint that is known to be intact: no file is hashed here.

    Args:
        folder: the checkpoint, from `Checkpoints.latest_intact_step`.
        target: the state's shapes and types.
        shardings: the sharding of every leaf, a tree like the target.

    Returns:
        The state, and in words each type that was converted since the checkpoint has another one.

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
    """Checks that a train state fits, without reading its arrays.

    Args:
        folder: the checkpoint.
        target: the shapes that the state must have.

    Returns:
        Shape and type of every array of the stored state, by flat path.

    Raises:
        UserError: the state has other arrays or shapes, since another configuration saved it, or
            it can't be read.
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


def quick_problems(folder: Path) -> list[str]:
    """Why a checkpoint is not complete; an empty list where it is. Large files are compared by
    their sizes alone."""
    return manifest.problems(folder, hash_up_to=_SMALL)


def _misfits(wanted: dict[str, Any], stored: dict[str, Any], prefix: str) -> list[str]:
    """Names and shapes that differ from the config's, in words; Orbax ignores some of them."""
    own = {path.removeprefix(prefix) for path in stored if path.startswith(prefix)}
    problems = [f"{path} is missing" for path in wanted if path not in own]
    problems += [f"{path} has no place" for path in own if path not in wanted]
    return problems + [
        f"{path} is {stored[prefix + path].shape}, not {leaf.shape}"
        for path, leaf in wanted.items()
        if path in own and stored[prefix + path].shape != leaf.shape
    ]


def check_files(folder: Path, *items: str, hash_up_to: int | None = None) -> None:
    """Refuses items whose files differ from the manifest, or whose folder has no manifest, as an
    interrupted copy may have none.

    Args:
        folder: the folder of items.
        items: names of the items to check.
        hash_up_to: files of more bytes than this are compared by their size alone; None to hash
            all files.

    Raises:
        UserError: a file differs; the message names the files, and the newest older checkpoint of
            the run in which these items are intact.
        OSError: a file can't be read now, which is no sign of damage.
    """
    problems = manifest.problems(folder, items=items, hash_up_to=hash_up_to)
    if problems:
        older = _intact_one_before(folder, items)
        advice = f" {older} is intact and can be given instead." if older else ""
        raise UserError(f"{folder} is damaged: {in_short(problems)}.{advice}")


def in_short(problems: list[str]) -> str:
    """The first three problems, and how many more there are."""
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def _intact_one_before(folder: Path, items: tuple[str, ...]) -> Path | None:
    """The newest checkpoint of the run before this one whose items are intact."""
    if not folder.name.isdecimal():
        return None
    for step in reversed(steps.finished(folder.parent)):
        older = folder.parent / str(step)
        if step < int(folder.name) and holds_model(older):
            with contextlib.suppress(OSError):  # it can't be read now
                if not manifest.problems(older, items=items):
                    return older
    return None


def read_shapes(folder: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and stored type of every parameter in a folder of items, by flat path.

    Raises:
        UserError: the item `weights` can't be read.
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
    """The system's words for why something could not be written. TensorStore's errors hold only
    the system's error number, within a longer text."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(number[1])) if number else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def describe_model(model: Any) -> dict:
    """The content of the item `model`: class and config of a model."""
    return {"model": type(model).__name__, "config": dataclasses.asdict(model.config)}

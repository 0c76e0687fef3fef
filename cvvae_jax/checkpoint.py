"""Checkpoints on disk; the only file that imports Orbax.

A checkpoint is a folder of items: `weights` (the parameters to use, averaged where training
averages them), `model` (which model they belong to) and, in a run, `state` (everything training
goes on from) and `config`. Arrays are saved by their flat paths and always restored into a typed
target.
"""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from cvvae_jax import paths
from cvvae_jax.config import ConfigError

Tree = TypeVar("Tree")


class Checkpoints:
    """The checkpoints of a run: saved in the background, the newest ones kept."""

    def __init__(self, folder: Path | str, *, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)

    def latest_step(self) -> int | None:
        """Step of the newest finished checkpoint, None without one."""
        return self._manager.latest_step()

    def save(self, step: int, *, state: Any, weights: Any, config: dict) -> None:
        """Starts to save a train state and the model to use at that step; returns before it is on
        disk."""
        items = {
            "state": ocp.args.StandardSave(paths.flatten(state)),
            "config": ocp.args.JsonSave(config),
            "weights": ocp.args.StandardSave(paths.flatten(weights)),
            "model": ocp.args.JsonSave(_description(weights)),
        }
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, step: int, target: Tree, shardings: Any) -> Tree:
        """The train state of a step, in the structure and types of `target`, laid out by
        `shardings`.

        Raises:
            ConfigError: the checkpoint doesn't fit the target, that is the run's configuration.
        """
        leaves = paths.flatten(_abstract(target, shardings))
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(leaves))
            restored = self._manager.restore(step, args=args)["state"]
        except Exception as error:  # Orbax raises bare ones for damaged files
            raise ConfigError(
                f"{self._manager.directory}/{step} doesn't fit this run: it is of other networks, "
                "of an objective with or without a discriminator (give --workdir another folder), "
                f"or damaged. {_first_line(error)}"
            ) from error
        return paths.unflatten(target, restored)

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def save_model(path: Path | str, model: Any) -> None:
    """Writes a model alone, so that `load` can read it.

    Raises:
        ConfigError: `path` exists.
    """
    path = Path(path).absolute()
    if path.exists():
        raise ConfigError(f"{path} exists; a model is never written over another.")
    # Trained weights are noise to a compressor: it takes longer than the disk and saves 7 percent.
    # Zarr 3 is written twice as fast as Orbax's default, zarr 2.
    weights = ocp.PyTreeCheckpointHandler(use_compression=False, use_zarr3=True)
    handler = ocp.CompositeCheckpointHandler(weights=weights, model=ocp.JsonCheckpointHandler())
    items = {
        "weights": ocp.args.PyTreeSave(paths.flatten(model)),
        "model": ocp.args.JsonSave(_description(model)),
    }
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, args=ocp.args.Composite(**items))


def find_model(path: Path | str) -> Path | None:
    """The folder of items that a path means: itself, or the newest checkpoint of a run folder; None
    where it holds none."""
    path = Path(path).absolute()
    for folder in (path, path / "checkpoints"):
        steps = (
            [step for step in folder.iterdir() if step.name.isdecimal()] if folder.is_dir() else []
        )
        for step in sorted(steps, key=lambda step: int(step.name), reverse=True):
            if holds_model(step):
                return step
        if holds_model(folder):
            return folder
    return None


def holds_model(folder: Path) -> bool:
    """Whether a folder has the items of a model."""
    return (folder / "weights").is_dir() and (folder / "model").is_dir()


def read_description(folder: Path) -> dict:
    """Which model a folder of items holds: its class as `model` and the fields of its config.

    Raises:
        ConfigError: it can't be read.
    """
    return _restore_item(folder, "model", ocp.args.JsonRestore())


def restore_model(folder: Path, target: Tree, *, shardings: Any = None, raw: bool = False) -> Tree:
    """The weights of a folder of items, in the structure and types of `target`.

    Args:
        folder: what `find_model` returned.
        target: the model's shapes and types.
        shardings: where every parameter lies, a tree like the target; None: numpy arrays.
        raw: the parameters as the optimizer left them, not their average; only runs have them.

    Raises:
        ConfigError: they can't be read, or don't fit.
    """
    if raw and not (folder / "state").is_dir():
        raise ConfigError(f"{folder} has no train state, so only its averaged weights are there.")
    item, prefix = ("state", "model/") if raw else ("weights", "")
    layout = paths.flatten(shardings) if shardings is not None else {}
    wanted = paths.flatten(target)
    _check_fit(folder, wanted, _stored(folder, item), prefix)
    leaves = {prefix + path: leaf for path, leaf in wanted.items()}
    arguments = {
        prefix + path: _restore_args(leaf, layout.get(path)) for path, leaf in wanted.items()
    }
    how = ocp.args.PyTreeRestore(item=leaves, restore_args=arguments, partial_restore=raw)
    restored = _restore_item(folder, item, how)
    return paths.unflatten(target, {p.removeprefix(prefix): v for p, v in restored.items()})


def _restore_args(leaf: Any, sharding: jax.sharding.Sharding | None) -> ocp.RestoreArgs:
    if sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)
    return ocp.ArrayRestoreArgs(sharding=sharding, dtype=leaf.dtype)


def _check_fit(folder: Path, wanted: dict[str, Any], stored: dict[str, Any], prefix: str) -> None:
    """Refuses weights of other names or shapes than the config's; Orbax would pass over some."""
    own = {path.removeprefix(prefix) for path in stored if path.startswith(prefix)}
    problems = [f"{path} is missing" for path in wanted if path not in own]
    problems += [f"{path} has no place" for path in own if path not in wanted]
    problems += [
        f"{path} is {stored[prefix + path].shape}, not {leaf.shape}"
        for path, leaf in wanted.items()
        if path in own and stored[prefix + path].shape != leaf.shape
    ]
    if problems:
        raise ConfigError(f"{folder}: the weights don't fit their config: {'; '.join(problems)}.")


def read_shapes(folder: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type of every parameter of a folder of items, as they are stored, by flat path.

    Raises:
        ConfigError: they can't be read.
    """
    return _stored(folder, "weights")


def _stored(folder: Path, item: str) -> dict[str, jax.ShapeDtypeStruct]:
    try:
        metadata = ocp.PyTreeCheckpointHandler().metadata(folder / item)
    except Exception as error:  # Orbax raises bare ones for damaged files
        reason = _first_line(error)
        raise ConfigError(f"{folder}: the item {item} can't be read: {reason}") from error
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in metadata.tree.items()
    }


def _restore_item(folder: Path, name: str, how: ocp.args.CheckpointArgs) -> Any:
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(name)) as checkpointer:
            return checkpointer.restore(folder, args=ocp.args.Composite(**{name: how}))[name]
    except Exception as error:  # Orbax raises bare ones for damaged files
        reason = _first_line(error)
        raise ConfigError(f"{folder}: the item {name} can't be read: {reason}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _description(model: Any) -> dict:
    return {"model": type(model).__name__, "config": dataclasses.asdict(model.config)}


def _abstract(tree: Any, shardings: Any) -> Any:
    def of_leaf(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(of_leaf, tree, shardings)

"""The smallest run whose checkpoints are like any other's: no network is needed for that."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvvae_jax import sharding
from cvvae_jax.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class TinyConfig:
    width: int = 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TinyModel:
    kernel: Any
    config: TinyConfig = dataclasses.field(default=TinyConfig(), metadata={"static": True})


def tiny_state(step: int, *, size: int = 64) -> dict[str, Any]:
    """Random numbers, others for every step."""
    kernel = np.random.default_rng(step).normal(size=(size, size)).astype(np.float32)
    return {"step": jnp.asarray(step, jnp.int32), "model": TinyModel(jnp.asarray(kernel))}


def save(checkpoints: Checkpoints, step: int, *, size: int = 64, **scores: float) -> None:
    state = tiny_state(step, size=size)
    weights, config = state["model"], {"steps": 9}
    checkpoints.save(step, state=state, weights=weights, config=config, scores=scores)


def saved_run(folder: Path, steps: tuple[int, ...], **options: Any) -> Checkpoints:
    """With checkpoints of these steps."""
    checkpoints = Checkpoints(folder, **{"keep": len(steps)} | options)
    for step in steps:
        save(checkpoints, step)
    checkpoints.finish()
    return checkpoints


def restored_kernel(checkpoints: Checkpoints, step: int) -> np.ndarray:
    target = jax.eval_shape(lambda: tiny_state(step))
    state = checkpoints.restore(step, target, sharding.one_device(target))
    return np.asarray(state["model"].kernel)


def files_of(folder: Path) -> list[Path]:
    """All files, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def names_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}

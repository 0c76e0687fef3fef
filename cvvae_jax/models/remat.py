"""Activation checkpointing: how much a forward pass keeps for the backward pass.

Networks take `remat` as an argument of the call, and results don't depend on it. `none` keeps all
activations, `blocks` only the inputs of blocks, and `full` only the inputs of levels: `full` nests
checkpoints, so a level's blocks are computed again, and their inputs kept, just while the backward
pass is in that level.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax.config import Remat


def run(function: Callable, *inputs: Any, remat: Remat) -> Any:
    """Calls `function(*inputs)`; unless `remat` is `none`, only the inputs are kept.

    Modules must be among the inputs: then their parameters are kept rather than copies in the dtype
    of the computation.
    """
    return function(*inputs) if remat == "none" else jax.checkpoint(function)(*inputs)


def run_nested(function: Callable, *inputs: Any, remat: Remat) -> Any:
    """Calls `function(*inputs, remat=...)`, which is made of blocks; with `full` only its own
    inputs are kept."""
    if remat != "full":
        return function(*inputs, remat=remat)
    return jax.checkpoint(functools.partial(function, remat="blocks"))(*inputs)


def run_block(
    block: nnx.Module, video: Float[Array, "b t h w c"], *, remat: Remat
) -> Float[Array, "b t2 h2 w2 d"]:
    """Calls a block or layer, as `run` does."""
    return run(_call, block, video, remat=remat)


def run_level(
    level: nnx.Module, video: Float[Array, "b t h w c"], *, remat: Remat
) -> Float[Array, "b t2 h2 w2 d"]:
    """Calls a level or the middle of a network, as `run_nested` does."""
    return run_nested(_call, level, video, remat=remat)


def _call(module, video, **options):
    return module(video, **options)

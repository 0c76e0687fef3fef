"""Activation checkpointing: what a forward pass keeps for the backward pass, as an argument of the
call. Results don't depend on it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax.config import Remat


def run(function: Callable, *inputs: Any, remat: Remat) -> Any:
    """`function(*inputs)`; unless `remat` is `none`, only the inputs are kept.

    Modules must be among the inputs, so that their parameters are what is kept, rather than copies
    cast to the type of the computation.
    """
    return function(*inputs) if remat == "none" else jax.checkpoint(function)(*inputs)


def run_nested(function: Callable, *inputs: Any, remat: Remat) -> Any:
    """`function(*inputs, remat=...)`, which is made of blocks; with `full` not even the blocks'
    inputs are kept, but computed again and kept while this function's backward pass runs."""
    if remat != "full":
        return function(*inputs, remat=remat)
    return jax.checkpoint(functools.partial(function, remat="blocks"))(*inputs)


def run_block(
    block: nnx.Module, video: Float[Array, "b t h w c"], *, remat: Remat
) -> Float[Array, "b t2 h2 w2 d"]:
    """`run` of a block or layer."""
    return run(_call, block, video, remat=remat)


def run_level(
    level: nnx.Module, video: Float[Array, "b t h w c"], *, remat: Remat
) -> Float[Array, "b t2 h2 w2 d"]:
    """`run_nested` of a level or middle."""
    return run_nested(_call, level, video, remat=remat)


def _call(module, video, **options):
    return module(video, **options)

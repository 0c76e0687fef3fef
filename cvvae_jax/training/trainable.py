"""Which parameters of a VAE a stage trains: its trainable part, and the frozen rest.

A part of a VAE is a tree of the VAE's structure with None in place of the parameters that belong to
the other part. Gradients are taken with respect to the trainable part alone, and moments and
averages exist of it alone, so that what is frozen costs neither operations nor memory.
"""

import re
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from cvvae_jax import parameter_paths
from cvvae_jax.errors import UserError
from cvvae_jax.models.autoencoder import VAE

Tree = TypeVar("Tree")

PARTS = {
    "all": r".*",
    "decoder": r"(decoder|post_quant_conv)/.*",
    "encoder": r"(encoder|quant_conv)/.*",
    "last-layer": r"decoder/conv_out/.*",
}
"""The parts that have names, as patterns of whole parameter paths."""


def chosen_paths(model: VAE, trainable: str) -> list[str]:
    """The paths of the parameters that are trained, in the model's order.

    Args:
        model: the VAE, or its shapes and types.
        trainable: a name of `PARTS`, or a pattern of whole parameter paths.
    """
    pattern = PARTS.get(trainable, trainable)
    return [path for path in parameter_paths.flatten(model) if re.fullmatch(pattern, path)]


def trains_encoder(model: VAE, trainable: str) -> bool:
    """Whether latents of videos change in training: whether a parameter of the encoder is trained.

    Args:
        model: the VAE, or its shapes and types.
        trainable: a name of `PARTS`, or a pattern of whole parameter paths.
    """
    return any(re.fullmatch(PARTS["encoder"], path) for path in chosen_paths(model, trainable))


def partition(model: Tree, trainable: str) -> tuple[Tree, Tree]:
    """The trainable part of a VAE and its frozen part.

    Args:
        model: the VAE, or its shapes and types.
        trainable: a name of `PARTS`, or a pattern of whole parameter paths.
    """
    chosen = set(chosen_paths(model, trainable))

    def part(trained: bool):
        def kept(path, leaf):
            return leaf if (parameter_paths.path_name(path) in chosen) == trained else None

        return jax.tree_util.tree_map_with_path(kept, model)

    return part(True), part(False)


def merged(part: Tree, rest: Tree) -> Tree:
    """The whole VAE of two parts, or of a part and another whole one that fills its gaps."""
    return jax.tree.map(
        lambda leaf, other: other if leaf is None else leaf,
        part,
        rest,
        is_leaf=lambda leaf: leaf is None,
    )


def check_chosen(model: VAE, trainable: str, *, setting: str) -> None:
    """Refuses a choice that leaves nothing to train.

    Args:
        model: the VAE, or its shapes and types.
        trainable: a name of `PARTS`, or a pattern of whole parameter paths.
        setting: the setting's name in the message.

    Raises:
        UserError: no parameter is chosen.
    """
    if not chosen_paths(model, trainable):
        example = next(iter(parameter_paths.flatten(model)))
        raise UserError(
            f"{setting} {trainable} matches no parameter of the {type(model).__name__}: "
            f"{', '.join(PARTS)} or a regular expression for whole paths of parameters, such as "
            f"{example}, is accepted."
        )


def check_same_choice(
    model: VAE, trainable: str, before: str, *, setting: str, folder: Path
) -> None:
    """Refuses to go on from checkpoints of a run that trained other parameters.

    Args:
        model: the VAE, or its shapes and types.
        trainable: what is to be trained now.
        before: what the run in the folder has trained so far.
        setting: the setting's name in the message.
        folder: the stage's run folder.

    Raises:
        UserError: the two choose different parameters.
    """
    if chosen_paths(model, trainable) != chosen_paths(model, before):
        raise UserError(
            f"{folder} was trained with {setting} {before} so far, and has moments and averages of "
            f"these parameters alone, so that it can't go on with {trainable}: give --workdir "
            "another folder (--init-weights starts there from the weights of this one)."
        )


def checksums(model: VAE, trainable: str) -> UInt32[Array, " n"] | None:
    """A number for every frozen parameter, in the model's order, which another value of any one of
    its entries changes; None where all are trained.

    It is the sum of the entries' bits, as whole numbers, times odd numbers, modulo 2^32. An odd
    number has an inverse there, so that no change of a single entry is lost. The sum's order does
    not matter, so that the result is the same on any mesh.
    """
    frozen = jax.tree.leaves(partition(model, trainable)[1])
    return jnp.stack([_checksum(leaf) for leaf in frozen]) if frozen else None


def _checksum(leaf: Array) -> UInt32[Array, ""]:
    unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    place, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
    for axis in reversed(range(leaf.ndim)):
        place += jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        stride *= leaf.shape[axis]
    return (bits * (2 * place + 1)).sum(dtype=jnp.uint32)


_checksums_on_devices = jax.jit(checksums, static_argnames="trainable")


def check_frozen(model: VAE, trainable: str, before: UInt32[Array, " n"] | None) -> None:
    """Checks that the frozen parameters are what they were, bit by bit.

    Args:
        model: the VAE after some steps.
        trainable: what these steps have trained.
        before: the `checksums` of the first state.

    Raises:
        UserError: a frozen parameter has changed.
    """
    if before is None:
        return
    now = np.asarray(_checksums_on_devices(model, trainable=trainable))
    paths = parameter_paths.flatten(partition(model, trainable)[1])
    changed = [
        path for path, same in zip(paths, now == np.asarray(before), strict=True) if not same
    ]
    if changed:
        raise UserError(
            f"{len(changed)} of {len(paths)} frozen parameters have changed since the first step, "
            f"{changed[0]} among them, so that no checkpoint of this step is saved: a device's "
            "memory, or a term or callback of your own, must have written to them."
        )

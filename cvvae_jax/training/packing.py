"""Small arrays of networks joined into vectors while an update changes them.

Most arrays of a network are biases and scales of a few numbers. Updated one by one, each of them
needs some twenty operations of its own, which would be nearly half of a step's operations.
"""

import collections
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from cvvae_jax import sharding


class Packing:
    """How the arrays of a network are packed: those of the same type that every device has whole
    are joined into one vector, the others stay as they are."""

    def __init__(self, network: nnx.Module):
        """Set up for trees of this network's structure: itself, gradients, moments, averages."""
        leaves, self.structure = jax.tree.flatten(network)
        self.shapes = [leaf.shape for leaf in leaves]
        joined = collections.defaultdict(list)
        for i, leaf in enumerate(leaves):
            if leaf.size < sharding.SMALLEST_SHARDED:
                joined[leaf.dtype].append(i)
        self.groups = list(joined.values())
        """Indices of the arrays that each vector consists of."""
        grouped = {i for group in self.groups for i in group}
        self.alone = [i for i in range(len(leaves)) if i not in grouped]
        """Indices of the other arrays."""

    def pack(self, network: nnx.Module) -> "Packed":
        """Join the small arrays of a tree of this structure."""
        leaves = jax.tree.leaves(network)
        vectors = [jnp.concatenate([leaves[i].ravel() for i in group]) for group in self.groups]
        return Packed([leaves[i] for i in self.alone], vectors, self)

    def unpack(self, packed: "Packed") -> nnx.Module:
        """Undo `pack`."""
        leaves = dict(zip(self.alone, packed.arrays, strict=True))
        for group, vector in zip(self.groups, packed.vectors, strict=True):
            start = 0
            for i in group:
                end = start + math.prod(self.shapes[i])
                leaves[i] = vector[start:end].reshape(self.shapes[i])
                start = end
        return jax.tree.unflatten(self.structure, [leaves[i] for i in range(len(leaves))])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """A network whose small arrays are joined."""

    arrays: list[Array]
    """The arrays that stay as they are."""
    vectors: list[Array]
    """Small arrays, joined: one vector per type."""
    packing: Packing = dataclasses.field(metadata={"static": True})
    """The packing that unpacks this network."""


def packed(tree: Any, networks: tuple[nnx.Module, ...]) -> Any:
    """Pack every network in a tree.

    Args:
        tree: a tree with networks, their gradients, moments or averages.
        networks: the networks themselves, whose types of arrays decide what is joined.
    """
    packings = {packing.structure: packing for packing in map(Packing, networks)}
    return jax.tree.map(
        lambda node: (
            packings[jax.tree.structure(node)].pack(node) if isinstance(node, nnx.Module) else node
        ),
        tree,
        is_leaf=lambda node: isinstance(node, nnx.Module),
    )


def unpacked(tree: Any) -> Any:
    """Unpack every network that `packed` has packed."""
    return jax.tree.map(
        lambda node: node.packing.unpack(node) if isinstance(node, Packed) else node,
        tree,
        is_leaf=lambda node: isinstance(node, Packed),
    )

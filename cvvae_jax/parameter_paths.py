"""Parameters by flat paths: `decoder/up_blocks/00/resnets/01/conv1/kernel`.

Checkpoints, the converter, sharding rules and overviews all speak these paths. Positions in lists
are zero-padded, so that sorting by name keeps the order.
"""

from typing import Any, TypeVar

import jax

Tree = TypeVar("Tree")


def path_name(path: tuple) -> str:
    """The flat path of one leaf, from its jax key path; an nnx variable's own `value` is left
    out."""
    parts = [_part(key) for key in path]
    return "/".join(parts[:-1] if len(parts) > 1 and parts[-1] == "value" else parts)


def flatten(tree: Any) -> dict[str, Any]:
    """Every leaf of a tree (a module, an optimizer state, a train state) by its flat path."""
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
    if len(leaves) != len(jax.tree.leaves(tree)):
        raise ValueError("two leaves of the tree have the same flat path.")
    return leaves


def unflatten(target: Tree, leaves: dict[str, Any]) -> Tree:
    """A tree of the structure of `target` with these leaves.

    Raises:
        ValueError: leaves are missing or left over; all of them are named.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(target)
    names = [path_name(path) for path, _ in paths]
    missing, extra = sorted(set(names) - set(leaves)), sorted(set(leaves) - set(names))
    if missing or extra:
        raise ValueError(f"parameters don't fit the model; missing: {missing}; left over: {extra}.")
    return jax.tree_util.tree_unflatten(treedef, [leaves[name] for name in names])


def count(tree: Any) -> int:
    """How many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _part(key: Any) -> str:
    match key:
        case jax.tree_util.SequenceKey():
            return f"{key.idx:02d}"
        case jax.tree_util.DictKey():
            return str(key.key)
        case jax.tree_util.GetAttrKey():
            return key.name
        case _:
            return str(key.key)

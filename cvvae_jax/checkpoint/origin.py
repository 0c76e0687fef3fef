"""The item `origin` of a checkpoint: versions of code and libraries, and the devices."""

import functools
import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding

import cvvae_jax

_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint")


def origin(tree: Any) -> dict[str, Any]:
    """The item `origin`, as JSON, of a checkpoint that holds this tree."""
    return {
        "cvvae_jax": cvvae_jax.__version__,
        "commit": commit(),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "device": jax.devices()[0].device_kind,
        "mesh": mesh_of(tree),
    }


def mesh_of(tree: Any) -> dict[str, int] | None:
    """The sizes of the mesh's axes by name, for a tree of arrays or shapes; None without a mesh."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf.sharding, NamedSharding):
            return {str(axis): size for axis, size in leaf.sharding.mesh.shape.items()}
    return None


@functools.cache
def commit() -> str | None:
    """The git commit of the code, with `-dirty` if files were changed since; None where the code
    is not in a git checkout."""
    root = Path(cvvae_jax.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None  # no git: the version says less, and nothing else depends on it
    return f"{commit}-dirty" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    """Output of a git command that takes no locks, which a kill would leave in the repository."""
    command = ["git", "--no-optional-locks", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()

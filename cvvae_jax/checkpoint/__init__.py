"""Checkpoints on disk; the only package that imports Orbax.

A checkpoint is a folder of items: `weights` (the parameters to use, averaged where training
averages them), `model` (which model they belong to) and, in a run, `state` (everything training
goes on from), `config`, `origin` (what wrote it) and, at steps with an evaluation, `scores`.
`manifest.json` holds the size and SHA-256 of every file. Arrays are saved by their flat paths and
are always restored into a target of known shapes and types.

Three words say how far a checkpoint has been checked:
- finished: the folder has its final name, which it gets after the manifest was written;
- complete: every file exists with its size, and small files have their SHA-256;
- intact: every file has its SHA-256.
"""

from cvvae_jax.checkpoint.items import (
    find_model,
    holds_model,
    read_description,
    read_shapes,
    restore_model,
    save_model,
    system_reason,
)
from cvvae_jax.checkpoint.runs import Checkpoints, check_fits, newest_complete_step, newest_config

__all__ = [
    "Checkpoints",
    "check_fits",
    "find_model",
    "holds_model",
    "newest_complete_step",
    "newest_config",
    "read_description",
    "read_shapes",
    "restore_model",
    "save_model",
    "system_reason",
]

"""Checkpoints on disk; the only part that imports Orbax.

A checkpoint is a folder of items: `weights` (the parameters to use, averaged where training
averages them), `model` (which model they belong to) and, in a run, `state` (everything training
goes on from), `config`, `origin` (what wrote it) and, of steps with an evaluation, `scores`. Its
`manifest.json` holds the size and SHA-256 of every file; a folder has its final name only once that
is written. Arrays are saved by their flat paths and always restored into a typed target.
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

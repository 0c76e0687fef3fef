"""From files, or clips in memory, to batches of uint8 clips, without jax; the only importer of
Grain."""

from cvvae_jax.data.arrays import from_arrays

__all__ = ["from_arrays"]

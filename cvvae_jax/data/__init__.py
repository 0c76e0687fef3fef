"""From files to batches of uint8 clips, without jax; the only importer of Grain."""

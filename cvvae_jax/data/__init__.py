"""From files to batches of uint8 clips: the only importer of Grain and PyAV, without jax."""

"""Data sets of latents: written shard by shard, in any number of processes, and read back."""

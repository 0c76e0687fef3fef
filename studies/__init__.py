"""Studies: questions about compatible VAEs, each a folder with its rule, its command, its results.

A study uses the public API of cvvae_jax alone, as anyone's research would.
"""

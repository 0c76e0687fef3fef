"""Diffusion pipelines with VAEs of cvvae_jax, in short scripts: docs/diffusion.md explains them."""

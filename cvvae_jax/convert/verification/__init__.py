"""PyTorch beside JAX, stage by stage; the only part that computes with torch."""

from cvvae_jax.convert.verification.compare import COMPARED, verify

__all__ = ["COMPARED", "verify"]

"""Compatibility of a video VAE with an image VAE: measured clip by clip, summarized over clips."""

from cvvae_jax.evaluation.compatibility.measure import check_pair, measure_compatibility
from cvvae_jax.evaluation.compatibility.summary import summarize_compatibility

__all__ = ["check_pair", "measure_compatibility", "summarize_compatibility"]

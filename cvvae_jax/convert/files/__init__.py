"""PyTorch weight files, read safely, one tensor at a time; nothing here knows a model."""

from cvvae_jax.convert.files.source import TensorInfo
from cvvae_jax.convert.files.weights import WeightFiles, open_weights

__all__ = ["TensorInfo", "WeightFiles", "open_weights"]

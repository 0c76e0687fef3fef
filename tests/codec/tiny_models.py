"""The smallest models with the official strides."""

import jax
import numpy as np
from flax import nnx

TINY = {"block_channels": (8, 8, 8, 8), "blocks_per_level": 1, "norm_groups": 4}


def random_model(kind: type, config):
    """Weights from numpy: the model's own initializers would take seconds to compile."""
    shapes = jax.eval_shape(lambda key: kind(config, rngs=nnx.Rngs(key)), jax.random.key(0))
    normal = np.random.default_rng(0).standard_normal
    fill = lambda x: normal(x.shape, np.float32) / np.sqrt(max(x.size // x.shape[-1], 1))  # noqa: E731
    return jax.tree.map(lambda x: jax.numpy.asarray(fill(x), x.dtype), shapes)

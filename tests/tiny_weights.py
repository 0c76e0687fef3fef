"""A saved video VAE of the smallest width."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvvae_jax.checkpoint import save_model
from cvvae_jax.config import VideoVAEConfig
from cvvae_jax.models.video_vae import VideoVAE


def save_tiny_vae(path: Path) -> str:
    """Its path; numpy's weights, as initializers would be compiled."""
    config = VideoVAEConfig(block_channels=(8, 8, 8, 8), blocks_per_level=1, norm_groups=4)
    shapes = jax.eval_shape(lambda key: VideoVAE(config, rngs=nnx.Rngs(key)), jax.random.key(0))
    rng = np.random.default_rng(0)
    model = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype), shapes)
    save_model(path, model)
    return str(path)

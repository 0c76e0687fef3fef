"""Small videos, and a model of the smallest width, as files."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvvae_jax.checkpoint import save_model
from cvvae_jax.config import VideoVAEConfig
from cvvae_jax.data.video import VideoWriter
from cvvae_jax.models.video_vae import VideoVAE

RATE = Fraction(30000, 1001)


def save_weights(path) -> str:
    """A saved model; numpy's weights, as initializers would be compiled."""
    config = VideoVAEConfig(block_channels=(8, 8, 8, 8), blocks_per_level=1, norm_groups=4)
    shapes = jax.eval_shape(lambda key: VideoVAE(config, rngs=nnx.Rngs(key)), jax.random.key(0))
    rng = np.random.default_rng(0)
    model = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype), shapes)
    save_model(path, model)
    return str(path)


def make_video(path, *, frames: int, height: int, width: int) -> str:
    across, down = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    with VideoWriter(path, fps=RATE, height=height, width=width) as writer:
        for i in range(frames):
            frame = 128 + 100 * np.sin((across + i) / 9 + np.arange(3)) * np.cos(down / 7)
            writer.write(frame.astype(np.uint8))
    return str(path)

"""The smallest models with the official strides."""

import jax
import numpy as np
import pytest
from flax import nnx

from cvvae_jax.config import ImageVAEConfig, VideoVAEConfig
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE

TINY = {"block_channels": (8, 8, 8, 8), "blocks_per_level": 1, "norm_groups": 4}


def random_model(kind: type, config):
    """Weights from numpy: the model's own initializers would take seconds to compile."""
    shapes = jax.eval_shape(lambda key: kind(config, rngs=nnx.Rngs(key)), jax.random.key(0))
    normal = np.random.default_rng(0).standard_normal
    fill = lambda x: normal(x.shape, np.float32) / np.sqrt(max(x.size // x.shape[-1], 1))  # noqa: E731
    return jax.tree.map(lambda x: jax.numpy.asarray(fill(x), x.dtype), shapes)


@pytest.fixture(scope="session")
def vae() -> VideoVAE:
    return random_model(VideoVAE, VideoVAEConfig(**TINY))


@pytest.fixture(scope="session")
def image_vae() -> ImageVAE:
    return random_model(ImageVAE, ImageVAEConfig(**TINY))


@pytest.fixture(scope="session")
def clip():
    """clip(frames, height, width): random uint8 (1, t, h, w, 3)."""
    return lambda *size: np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)

"""The smallest models with the official strides."""

import numpy as np
import pytest
from tiny_models import TINY, random_model

from cvvae_jax.config import ImageVAEConfig, VideoVAEConfig
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE


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

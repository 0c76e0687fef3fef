"""A small AutoencoderKL as PyTorch's users have it, and a small video VAE of ours."""

import json
from pathlib import Path

import numpy as np
import pytest
from converting import IMAGE_VAE, ROOT, write
from tiny_models import save_tiny_vae


@pytest.fixture(scope="module")
def shapes() -> dict:
    """Names and shapes of a small AutoencoderKL."""
    return json.loads((ROOT / f"tests/golden/{IMAGE_VAE}.json").read_text())["state_dict"]


@pytest.fixture
def tensors(shapes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) - 0.5 for name, shape in shapes.items()}


@pytest.fixture
def source(tmp_path, tensors) -> Path:
    return write(tmp_path / "source", tensors)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> str:
    """A saved video VAE of the smallest width."""
    return save_tiny_vae(tmp_path_factory.mktemp("model") / "weights")

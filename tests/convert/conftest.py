"""Official layouts, and weight files with exactly their tensors."""

import json
from pathlib import Path

import numpy as np
import pytest

LAYOUTS = json.loads((Path(__file__).parent / "official_layouts.json").read_text())


def random_tensors(shapes: dict[str, list[int]], dtype: np.dtype) -> dict[str, np.ndarray]:
    """Tensors of these shapes, different in every number."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.random(shape, np.float32) - 0.5).astype(dtype) for name, shape in shapes.items()
    }


@pytest.fixture(scope="session")
def layouts() -> dict[str, dict]:
    """The official layouts: `config` and `tensors` (names and shapes) by name."""
    return LAYOUTS


@pytest.fixture(scope="session")
def make_tensors():
    """See `random_tensors`."""
    return random_tensors


@pytest.fixture(scope="session")
def tiny_layouts() -> dict[str, dict]:
    """Small models in the official layouts, from the golden files: `config` and `tensors`."""
    golden = Path(__file__).parents[1] / "golden"
    found = {}
    for name in (
        "cvvae_sd21_tiny",
        "cvvae_sd3_tiny",
        "autoencoderkl_sd_tiny",
        "autoencoderkl_sd3_tiny",
        "autoencoderkl_temporal_tiny",
        "disc3d_tiny",
        "lpips",
    ):
        description = json.loads((golden / f"{name}.json").read_text())
        config = description.get("config") if name[:4] in ("cvva", "auto") else None
        found[name] = {"config": config, "tensors": description["state_dict"]}
    return found

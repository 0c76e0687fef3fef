"""Golden files: outputs of the official PyTorch code in float32, and what they were computed from.

The folder is `tests/golden`, or the one named by the environment variable CVVAE_GOLDEN. Weights and
inputs aren't in the files; the formulas below make them.
"""

import itertools
import json
import os
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from cvvae_jax.convert.convert import from_official

FOLDER = Path(os.environ.get("CVVAE_GOLDEN", Path(__file__).parent / "golden"))
# Training steps take long to compile; but for the official recipe they are slow tests.
QUICK_STEPS = ("train_random",)

# float32 sums of up to 13824 products (27 taps of 512 channels) carry about sqrt(13824) * 6e-8 =
# 7e-6 relative error each; some sixty layers in a row stay below 1e-4 of the largest output.
FLOAT32_TOLERANCE = 1e-4
# bfloat16 keeps 8 bits: 2e-3 a rounding, adding up like a random walk over some hundred roundings.
BFLOAT16_TOLERANCE = 5e-2


def cases(kind: str, *dtypes: str) -> list:
    """(file name, case, type) of every golden file of a kind; full-width models in half precision
    are slow."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        golden = json.loads(path.read_text())
        if golden["kind"] == kind:
            full_width = sum(map(np.prod, golden["state_dict"].values())) > 1e8
            long = kind == "train_step" and path.stem not in QUICK_STEPS
            for case, dtype in itertools.product(golden.get("cases", ["values"]), dtypes):
                slow = long or (full_width and dtype == "bfloat16")
                marks = [pytest.mark.slow] if slow else []
                found.append(pytest.param(path.stem, case, dtype, marks=marks))
    return found


def read(name: str) -> tuple[dict, dict]:
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    return golden, dict(np.load(FOLDER / f"{name}.npz"))


def random_state(text: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(text.encode()))


def golden_tensor(key: str, shape: list[int]) -> np.ndarray:
    x = random_state(key).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return x / np.sqrt(np.prod(shape[1:])).astype(np.float32)
    return 1 + np.float32(0.1) * x if key.endswith("weight") else np.float32(0.1) * x


def golden_input(name: str, case: str, shape: list[int]) -> np.ndarray:
    x = random_state(f"input:{name}/{case}").standard_normal(shape)
    return np.tanh(x).astype(np.float32)


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


def build(model_class, config, golden: dict, rows: list, tensor=golden_tensor):
    abstract = jax.eval_shape(
        lambda key: model_class(config, rngs=nnx.Rngs(key)), jax.random.key(0)
    )
    tensors = {key: tensor(key, shape) for key, shape in golden["state_dict"].items()}
    return from_official(abstract, tensors, rows)


def assert_equal(ours, theirs: np.ndarray, dtype: str) -> None:
    assert ours.shape == theirs.shape
    error = np.asarray(ours, np.float32) - theirs
    if dtype == "float32":
        assert np.abs(error).max() <= FLOAT32_TOLERANCE * np.abs(theirs).max()
    else:
        assert np.sqrt(np.mean(error**2) / np.mean(theirs**2)) <= BFLOAT16_TOLERANCE

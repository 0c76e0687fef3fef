"""Updates of joined arrays change networks as updates of each array alone would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax.config import OptimizerConfig
from cvvae_jax.sharding import SMALLEST_SHARDED
from cvvae_jax.training.packing import packed, unpacked
from cvvae_jax.training.state import make_optimizer, update_average, updated

IN = 128
OUT = SMALLEST_SHARDED // IN


def network(seed: int, *, out: int = OUT, kernel_dtype=jnp.float32) -> nnx.Linear:
    rngs = nnx.Rngs(seed)
    layer = nnx.Linear(IN, out, bias_init=nnx.initializers.normal(), rngs=rngs)
    layer.kernel = nnx.Param(layer.kernel[...].astype(kernel_dtype))
    return layer


def assert_same(ours, theirs, *, rounding: float = 0.0) -> None:
    """Equal structures, types and numbers, up to `rounding` of an array's largest number."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == other.dtype
        atol = rounding * float(np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("out", "dtype", "alone", "vectors"),
    [
        (OUT - 1, jnp.float32, 0, 1),  # all arrays are small
        (OUT, jnp.float32, 1, 1),  # the kernel is one that devices may share
        (OUT - 1, jnp.bfloat16, 0, 2),  # of two types
    ],
)
def test_packing_is_undone(out, dtype, alone, vectors):
    layer = network(0, out=out, kernel_dtype=dtype)
    tree = {"model": layer, "moments": (jax.tree.map(jnp.square, layer), jnp.float32(2))}
    joined = packed(tree, (layer,))
    assert len(joined["model"].arrays) == alone and len(joined["model"].vectors) == vectors
    assert_same(unpacked(joined), tree)


@pytest.mark.parametrize("out", [OUT - 1, OUT])
def test_update_of_packed_networks_equals_that_of_each_array(out):
    model, grads, ema = (network(seed, out=out) for seed in range(3))
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.1, clip_norm=1e6))

    def update(model, grads, opt_state, ema):
        model, opt_state, norm = updated(optimizer, grads, opt_state, model, jnp.float32(0.1))
        return model, opt_state, update_average(ema, model, jnp.int32(3), decay=0.9), norm

    before = (model, grads, optimizer.init(model), ema)
    *alone, norm = update(*before)
    *joined, joined_norm = update(*packed(before, (model,)))
    # A vector of another length is computed in other blocks, whose products and sums may be fused
    # or not: a few units in the last place, 2^-24 each.
    assert_same(unpacked(tuple(joined)), tuple(alone), rounding=2.0**-22)
    # Sums of up to 2^14 squares in another order.
    np.testing.assert_allclose(joined_norm, norm, rtol=1e-5)

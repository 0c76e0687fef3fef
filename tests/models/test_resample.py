import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax.models.resample import pool

REFERENCE = {"max": nnx.max_pool, "mean": nnx.avg_pool}


@pytest.mark.parametrize("reduction", ["max", "mean"])
@pytest.mark.parametrize("window", [(1, 2, 2), (2, 2, 2)])
def test_pooling_equals_flax_with_gradients_also_where_windows_dont_fit(window, reduction):
    """Sums of eight float32 numbers in another order."""
    video = jax.random.normal(jax.random.key(0), (2, 5, 6, 7, 3))

    def ours(video):
        return jnp.sin(pool(video, window=window, reduction=reduction))

    def theirs(video):
        return jnp.sin(REFERENCE[reduction](video, window, strides=window))

    np.testing.assert_allclose(ours(video), theirs(video), atol=1e-6)
    grads = [jax.grad(lambda v, form=form: form(v).sum())(video) for form in (ours, theirs)]
    np.testing.assert_allclose(*grads, atol=1e-6)

"""Why frames are split by hand: XLA's partitioner, given a video whose rows are split, returns
wrong gradients of convolution kernels. This test tells when a later jax no longer does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

REASON = (
    "XLA's partitioner multiplies a kernel's gradient by the number of devices that hold copies of "
    "the same rows. Where this passes, `rows` and `sharding.split_rows` may no longer be needed."
)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason=REASON)
def test_partitioner_gets_a_kernels_gradient_right_where_rows_are_split():
    """All sums are of small integers, which float32 holds exactly."""
    axes = (AxisType.Auto,) * 2
    mesh = jax.make_mesh((4, 2), ("data", "space"), axis_types=axes)
    video, kernel = jnp.ones((1, 8, 4, 1)), jnp.ones((3, 3, 1, 1))

    def loss(kernel, video):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            video, kernel, (1, 1), "SAME", dimension_numbers=layout
        ).sum()

    gradient = jax.jit(jax.grad(loss))
    expected = gradient(kernel, video)
    split = jax.device_put(video, NamedSharding(mesh, P(None, "space")))
    whole = jax.device_put(kernel, NamedSharding(mesh, P()))
    assert loss(whole, split) == loss(kernel, video)  # the value is right
    np.testing.assert_array_equal(gradient(whole, split), expected)

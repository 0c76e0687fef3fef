"""Operations of programs equal those counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax.hardware import count_flops, peak_flops
from cvvae_jax.models.conv_forms import reference_convolutions
from cvvae_jax.models.video_vae import PRESETS, VideoVAE


def flops(function, *shapes: tuple[int, ...]) -> float:
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count_flops(jax.make_jaxpr(function)(*arrays))


def conv(image, kernel):
    return jax.lax.conv_general_dilated(
        image, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


IMAGE, KERNEL = (2, 8, 8, 3), (3, 3, 3, 5)
# 2 images of 4 x 4 outputs, 5 channels of 27 products and sums each.
CONV = 2 * (2 * 4 * 4) * 5 * 27


def test_strided_convolution():
    assert flops(conv, IMAGE, KERNEL) == CONV


@pytest.mark.parametrize("of", [0, 1], ids=["input", "kernel"])
def test_gradient_of_a_strided_convolution_costs_as_much_as_the_convolution(of):
    """For the input the transpose reads zeros between values, for the kernel it dilates the kernel.
    Both do the same products as the convolution, which is linear and so not needed."""

    def pulled_back(image, kernel, cotangent):
        return jax.vjp(conv, image, kernel)[1](cotangent)[of]

    def linear(image, kernel, cotangent):
        fixed = (lambda x: conv(x, kernel)) if of == 0 else (lambda x: conv(image, x))
        return jax.linear_transpose(fixed, (image, kernel)[of])(cotangent)

    cotangent = (2, 4, 4, 5)
    assert flops(linear, IMAGE, KERNEL, cotangent) == CONV
    assert flops(pulled_back, IMAGE, KERNEL, cotangent) == 3 * CONV


def test_devices_that_split_a_frame_count_together():
    mesh = jax.make_mesh((2,), ("space",), axis_types=(jax.sharding.AxisType.Auto,))
    own = jax.P("space")
    split = jax.shard_map(conv, mesh=mesh, in_specs=(own, jax.P()), out_specs=own)
    assert flops(split, IMAGE, KERNEL) == CONV


def test_grouped_convolution():
    def grouped(image, kernel):
        return jax.lax.conv_general_dilated(
            image,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )

    assert flops(grouped, (1, 4, 4, 6), (3, 3, 3, 8)) == 2 * (4 * 4) * 8 * 27


def test_product_of_matrices_in_a_batch():
    found = flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (3, 4, 5), (3, 5, 6))
    assert found == 2 * 3 * 4 * 6 * 5


def test_scan_counts_every_iteration():
    def scanned(x, matrices):
        return jax.lax.scan(lambda x, matrix: (x @ matrix, None), x, matrices)[0]

    assert flops(scanned, (2, 4), (7, 4, 4)) == 7 * 2 * 2 * 4 * 4


def test_of_alternatives_the_largest_counts():
    def chosen(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert flops(chosen, (4, 4)) == 2 * 2 * 4**3


def test_what_is_computed_again_is_counted_again():
    """A product forward and one backward, for the weights; and the first one once more."""

    def loss(weights, x):
        return jnp.square(jnp.sin(x @ weights)).sum()

    product = 2 * 4 * 5 * 6
    assert flops(jax.grad(loss), (5, 6), (4, 5)) == 2 * product
    assert flops(jax.grad(jax.checkpoint(loss)), (5, 6), (4, 5)) == 3 * product


def test_platforms_have_their_own_alternatives():
    def chosen(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: x @ x, default=lambda x: x @ x @ x)

    jaxpr = jax.make_jaxpr(chosen)(jnp.ones((4, 4)))
    assert count_flops(jaxpr, platform="cpu") == 2 * 4**3
    assert count_flops(jaxpr, platform="cuda") == count_flops(jaxpr) == 2 * 2 * 4**3


# The decoder has 17.1e12 operations. 6.7e12 of them are convolutions after upsampling, of which
# sub-pixels leave 16/36, and one row and column more. Few products leave 64/216 of a 3-D
# convolution and 16/36 of a 2-D one, 36/216 after upsampling, and compute 18 frames instead of 17.
@pytest.mark.parametrize(
    ("part", "official", "executed", "on_cpus"),
    [("encode", 5.7e12, 5.7e12, 2.34e12), ("decode", 17.1e12, 13.4e12, 5.09e12)],
    ids=["encoder", "decoder"],
)
def test_official_model_on_17_frames_of_256(part, official, executed, on_cpus):
    """Counted by hand to two digits."""
    shapes = {"encode": (1, 17, 256, 256, 3), "decode": (1, 5, 32, 32, 4)}
    model = jax.eval_shape(
        lambda key: VideoVAE(PRESETS["sd21"], rngs=nnx.Rngs(key)), jax.random.key(0)
    )
    x = jax.ShapeDtypeStruct(shapes[part], jnp.float32)

    def traced():
        run = {
            "encode": lambda model, x: model.encode(x).mean,
            "decode": lambda model, x: model.decode(x),
        }[part]
        return jax.make_jaxpr(run)(model, x)

    with reference_convolutions():
        np.testing.assert_allclose(count_flops(traced()), official, rtol=0.01)
    jaxpr = traced()
    np.testing.assert_allclose(count_flops(jaxpr), executed, rtol=0.01)
    np.testing.assert_allclose(count_flops(jaxpr, platform="cpu"), on_cpus, rtol=0.01)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("NVIDIA H100 80GB HBM3", 989e12), ("cpu", None)],
)
def test_peak_of_a_device_is_that_of_the_longest_name_that_fits(kind, peak):
    assert peak_flops(kind) == peak

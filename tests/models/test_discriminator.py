import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax import parameter_paths
from cvvae_jax.config import DiscriminatorConfig
from cvvae_jax.errors import UserError
from cvvae_jax.models.discriminator import Discriminator, DiscriminatorBlock

TINY = {"base_channels": 4, "norm_groups": 4}


def tiny(**changes) -> Discriminator:
    config = DiscriminatorConfig(**TINY | changes)
    return jax.jit(lambda key: Discriminator(config, rngs=nnx.Rngs(key)))(jax.random.key(0))


@pytest.fixture(scope="module")
def network() -> Discriminator:
    return tiny()


@pytest.mark.parametrize(
    ("frames", "logit_frames"), [(1, 1), (2, 1), (5, 1), (9, 2), (16, 2), (17, 3)]
)
def test_logits_are_eight_times_fewer_in_every_direction_rounded_up_in_time(
    network, frames, logit_frames
):
    video = jnp.zeros((2, frames, 16, 24, 3))
    logits = jax.eval_shape(lambda video: network(video), video)
    assert logits.shape == (2, logit_frames, 2, 3, 1)


def test_odd_frame_counts_repeat_the_first_frame_before_pooling(network):
    """Averages of frames (0, 0), (1, 2), (3, 4)."""
    video = jnp.broadcast_to(jnp.arange(5.0).reshape(1, 5, 1, 1, 1), (1, 5, 2, 2, 4))
    pooled = DiscriminatorBlock._pool(network.blocks[0], video)
    np.testing.assert_array_equal(pooled[0, :, 0, 0, 0], [0.0, 1.5, 3.5])


@pytest.mark.parametrize(("half_3d", "count"), [(False, 29_015_041), (True, 18_103_297)])
def test_defaults_have_the_official_number_of_parameters(half_3d, count):
    config = DiscriminatorConfig(half_3d=half_3d)
    network = jax.eval_shape(
        lambda key: Discriminator(config, rngs=nnx.Rngs(key)), jax.random.key(0)
    )
    assert parameter_paths.count(network) == count


def test_kernels_start_small_and_biases_at_zero():
    """A deviation of 0.02: the estimate from n numbers has a standard error of 0.02 / sqrt(2n),
    under 3 % in the kernels of a thousand numbers or more."""
    leaves = parameter_paths.flatten(tiny(base_channels=8, norm_groups=8, layers=2))
    convs = {path: leaf for path, leaf in leaves.items() if "conv" in path}
    for path, leaf in convs.items():
        if path.endswith("bias"):
            assert not leaf.any(), path
        elif leaf.size > 1000:
            assert float(leaf.std()) == pytest.approx(0.02, rel=0.12), path


def test_convolutions_see_both_ways_in_time(network):
    """The first one strides by two frames, so its first output sees the first frame and the second,
    and black in front."""
    video = jax.random.normal(jax.random.key(0), (1, 3, 8, 8, 3))
    grads = jax.grad(lambda v: jnp.abs(network.conv_in(v)[:, 0]).sum())(video)
    np.testing.assert_array_equal(jnp.any(grads != 0, axis=(0, 2, 3, 4)), [True, True, False])


def test_widths_that_groups_dont_divide_are_refused():
    with pytest.raises(UserError, match="multiple of norm_groups 32"):
        DiscriminatorConfig(base_channels=48)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax import parameter_paths
from cvvae_jax.config import LPIPSConfig
from cvvae_jax.losses import _normalized, lpips
from cvvae_jax.models.feature_networks import vgg
from cvvae_jax.models.feature_networks.vgg import LPIPS


def narrow(config: LPIPSConfig) -> LPIPS:
    """A network of five levels, but with few channels and a single convolution in each, to be
    quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vgg, "LEVELS", ((4,), (4,), (4,), (8,), (8,)))
        return jax.jit(lambda key: LPIPS(config, rngs=nnx.Rngs(key)))(jax.random.key(0))


@pytest.fixture(scope="module")
def network() -> LPIPS:
    return narrow(LPIPSConfig())


distances = jax.jit(lpips)
gradient = jax.jit(jax.grad(lambda video, network, other: lpips(network, video, other).sum()))


def random_video(seed: int, *shape: int) -> jax.Array:
    return jnp.tanh(jax.random.normal(jax.random.key(seed), (*shape, 3)))


def test_equal_frames_have_no_distance_and_other_frames_have_one(network):
    video, other = random_video(0, 2, 3, 16, 24), random_video(1, 2, 3, 16, 24)
    distance = distances(network, video, other.at[:, 1].set(video[:, 1]))
    assert distance.shape == (2, 3)
    assert not distance[:, 1].any()
    assert (distance[:, ::2] > 0).all()


def test_every_frame_has_its_own_distance(network):
    """In another batch only the order of float32 sums may differ."""
    video, other = random_video(0, 1, 3, 16, 16), random_video(1, 1, 3, 16, 16)
    alone = distances(network, video[:, 1:2], other[:, 1:2])
    np.testing.assert_allclose(distances(network, video, other)[:, 1:2], alone, rtol=1e-5)


def test_gradient_is_finite_for_identical_videos(network):
    video = random_video(0, 1, 1, 16, 16)
    assert jnp.isfinite(gradient(video, network, video)).all()


@pytest.mark.parametrize("value", [(0.0, 0.0, 0.0), vgg.SHIFT])
def test_gradient_is_finite_where_features_are_zero(network, value):
    """Scaled, the second value is zero, as are the features of a network without biases."""
    flat = jnp.broadcast_to(jnp.asarray(value).reshape(1, 1, 1, 1, 3), (1, 1, 16, 16, 3))
    for other in (flat, random_video(0, 1, 1, 16, 16)):
        assert jnp.isfinite(gradient(flat, network, other)).all()


def test_features_without_length_have_a_finite_gradient():
    """ReLU's gradient would hide one that isn't, so this looks at the features themselves."""
    zero = jnp.zeros((1, 1, 2, 2, 4))
    assert not _normalized(zero).any()
    assert jnp.isfinite(jax.grad(lambda features: _normalized(features).sum())(zero)).all()


def test_features_of_hundreds_dont_overflow_in_half_precision():
    """VGG's features are that large; the square of 300 is beyond float16."""
    features = jnp.full((1, 1, 2, 2, 4), 300.0, jnp.float16)
    np.testing.assert_allclose(_normalized(features), 0.5, rtol=1e-6)


def test_half_precision_stays_near_and_is_measured_in_float32(network):
    """bfloat16 keeps 8 bits: 0.4 % a rounding, adding up over five convolutions to a few
    percent."""
    video, other = random_video(0, 1, 1, 16, 16), random_video(1, 1, 1, 16, 16)
    distance = distances(narrow(LPIPSConfig(dtype="bfloat16")), video, other)
    assert distance.dtype == jnp.float32
    assert not np.array_equal(distance, distances(network, video, other))
    np.testing.assert_allclose(distance, distances(network, video, other), rtol=0.05)


def test_network_has_the_official_number_of_parameters():
    """VGG16's 13 convolutions, and one weight for each of the 1472 channels of its features."""
    network = jax.eval_shape(
        lambda key: LPIPS(LPIPSConfig(), rngs=nnx.Rngs(key)), jax.random.key(0)
    )
    assert parameter_paths.count(network) == 14_714_688 + 1472

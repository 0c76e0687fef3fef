import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.losses import (
    adaptive_weight,
    fake_loss,
    generator_loss,
    lecam_average,
    lecam_fake,
    lecam_real,
    r1_penalty,
    real_loss,
)

LOGITS = jnp.array([-2.0, 0.0, 0.5, 3.0])


def softplus(*values: float) -> float:
    return float(np.mean(np.log1p(np.exp(values))))


@pytest.mark.parametrize(
    ("loss", "kind", "value"),
    [
        (real_loss, "hinge", 0.5 * (3 + 1 + 0.5 + 0) / 4),
        (fake_loss, "hinge", 0.5 * (0 + 1 + 1.5 + 4) / 4),
        (real_loss, "vanilla", 0.5 * softplus(2, 0, -0.5, -3)),
        (fake_loss, "vanilla", 0.5 * softplus(-2, 0, 0.5, 3)),
    ],
)
def test_discriminator_losses_are_those_computed_by_hand(loss, kind, value):
    """float32: 1e-6."""
    np.testing.assert_allclose(loss(LOGITS, kind=kind), value, rtol=1e-6)


def test_generator_wants_high_logits():
    np.testing.assert_allclose(generator_loss(LOGITS), -1.5 / 4, rtol=1e-6)


def test_hinge_asks_for_no_more_than_a_margin_of_one():
    gradient = jax.grad(lambda logits: real_loss(logits, kind="hinge"))(LOGITS)
    np.testing.assert_allclose(gradient, [-1 / 8, -1 / 8, -1 / 8, 0], rtol=1e-6)


def test_adaptive_weight_is_the_ratio_of_the_gradients_lengths():
    """The gradients have lengths of 5 and 2, and 1e-4 is added to the second."""
    weight = adaptive_weight(jnp.array([[3.0, 0.0], [0.0, -4.0]]), jnp.full((2, 2), 1.0))
    np.testing.assert_allclose(weight, 5 / 2.0001, rtol=1e-6)


@pytest.mark.parametrize(
    ("nll", "gan", "weight"), [(1e3, 0.0, 1e4), (1e9, 1.0, 1e4), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0)]
)
def test_adaptive_weight_is_finite_whatever_the_gradients(nll, gan, weight):
    np.testing.assert_allclose(adaptive_weight(jnp.full((4,), nll), jnp.full((4,), gan)), weight)


def test_r1_of_linear_logits_is_half_the_squared_length_of_their_slope():
    """Three patches of one video see w x, 2 w x and 3 w x; their mean has the slope 2 w, whatever
    the video. float32: 1e-5."""
    slope = jax.random.normal(jax.random.key(0), (3, 4, 4, 3))
    video = jax.random.normal(jax.random.key(1), (2, 3, 4, 4, 3))

    def logits(video):
        value = jnp.einsum("bthwc,thwc->b", video, slope)
        return value[:, None] * jnp.arange(1.0, 4.0)[None]

    expected = 0.5 * float(jnp.square(2 * slope).sum())
    for batch in (video, video[:1]):  # averaged over videos
        np.testing.assert_allclose(r1_penalty(logits, batch), expected, rtol=1e-5)


def test_r1_is_averaged_over_videos_whose_slopes_differ():
    """Logits are x ** 2 / 2, so that the slope is x itself: 0 for one video, 1 for the other."""
    video = jnp.stack([jnp.zeros((1, 2, 2, 3)), jnp.ones((1, 2, 2, 3))])

    def logits(video):
        return 0.5 * jnp.square(video).sum(axis=(1, 2, 3, 4))[:, None]

    np.testing.assert_allclose(r1_penalty(logits, video), 0.5 * (0 + 12) / 2, rtol=1e-6)


def test_lecam_pulls_logits_that_are_beyond_the_other_average():
    """Real ones down to the average of fake ones, fake ones up to that of real ones; others are
    left alone."""
    np.testing.assert_allclose(lecam_real(LOGITS, jnp.array(0.25)), (0.25**2 + 2.75**2) / 4)
    np.testing.assert_allclose(lecam_fake(LOGITS, jnp.array(0.25)), (2.25**2 + 0.25**2) / 4)
    gradient = jax.grad(lambda logits: lecam_real(logits, jnp.array(0.25)))(LOGITS)
    np.testing.assert_allclose(gradient, [0, 0, 2 * 0.25 / 4, 2 * 2.75 / 4], rtol=1e-6)


def test_running_average_of_logits_keeps_999_parts_in_1000():
    average = jnp.zeros(())
    for _ in range(10):
        average = lecam_average(average, jnp.array(2.0))
    np.testing.assert_allclose(average, 2 * (1 - 0.999**10), rtol=1e-5)

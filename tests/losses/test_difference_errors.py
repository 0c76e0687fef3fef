"""Errors of changes between frames, within groups and at their boundaries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.losses import difference_errors

VALUES = 2 * 2 * 3  # of a frame


def errors(offsets, *, compression: int = 4) -> tuple[float, float]:
    """Of a moving video and the same with a number added to each frame."""
    rng = np.random.default_rng(0)
    video = jnp.float32(rng.normal(size=(2, len(offsets), 2, 2, 3)))
    recon = video + jnp.float32(offsets).reshape(1, -1, 1, 1, 1)
    return tuple(map(float, difference_errors(recon, video, temporal_compression=compression)))


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([1] * 9, (0, 0)),  # an error that stays
        ([0, 1, 1, 1, 1, 0, 0, 0, 0], (0, 1)),  # a step of 1 at both boundaries
        ([0, 0, 0, 0, 0, 3, 3, 3, 3], (0, 1.5)),  # at one of them
        ([0, 0, 1, 1, 1, 1, 1, 1, 1], (1 / 6, 0)),  # between frames 1 and 2, one of six pairs
    ],
)
def test_steps_count_where_they_are(offsets, expected):
    """Rounding of numbers near 1: 2^-23 of each."""
    np.testing.assert_allclose(errors(offsets), np.multiply(expected, VALUES), atol=1e-5)


def test_pairs_follow_the_groups_of_latent_frames():
    """With a compression of 2: frame 0 | 1 2 | 3 4. An image has no pairs, and without compression
    all pairs are boundaries."""
    np.testing.assert_allclose(errors([0, 0, 1, 1, 1], compression=2), (VALUES / 2, 0), atol=1e-5)
    np.testing.assert_allclose(errors([0, 0, 0, 1, 1], compression=2), (0, VALUES / 2), atol=1e-5)
    assert errors([5]) == (0, 0)
    np.testing.assert_allclose(errors([0, 1, 1], compression=1), (0, VALUES / 2), atol=1e-5)


def test_gradient_is_that_of_the_absolute_differences():
    """Of a step up behind frame 0."""
    video = jnp.zeros((1, 5, 1, 1, 1))
    recon = video.at[:, 1:].set(1.0)

    def boundary(recon):
        return difference_errors(recon, video, temporal_compression=4)[1]

    np.testing.assert_array_equal(jax.grad(boundary)(recon).ravel(), [-1, 1, 0, 0, 0])

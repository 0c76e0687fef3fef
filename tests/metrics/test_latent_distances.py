"""Distances of sets of latents whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.metrics import latents
from cvvae_jax.metrics.frechet import FeatureStatistics, frechet_distance
from cvvae_jax.metrics.latents import KERNEL_WIDTHS, linear_probe, mmd, patches

RNG = np.random.default_rng(0)


def test_patches_are_squares_of_one_frame_each_once():
    latents = np.arange(2 * 3 * 4 * 2, dtype=np.float32).reshape(2, 3, 4, 2)
    found = patches(latents, size=2, count=100, seed=0)
    every = [
        latents[n, y : y + 2, x : x + 2].reshape(-1)
        for n in range(2)
        for y in range(2)
        for x in range(3)
    ]
    assert sorted(map(tuple, found)) == sorted(map(tuple, every))


def test_patches_of_one_seed_lie_at_the_same_places():
    latents = RNG.normal(size=(3, 5, 6, 4)).astype(np.float32)
    kwargs = {"size": 2, "count": 7, "seed": 3}
    np.testing.assert_array_equal(patches(2 * latents, **kwargs), 2 * patches(latents, **kwargs))
    assert patches(latents, **kwargs).shape == (7, 16)


def test_frames_of_one_row_have_no_patch():
    assert patches(np.zeros((3, 1, 6, 4), np.float32), size=2, count=7, seed=0).shape == (0, 16)


def test_mmd_is_its_definition():
    a, b = RNG.normal(size=(6, 3)), RNG.normal(1, 2, size=(5, 3))
    both = np.concatenate([a, b])
    distances = np.linalg.norm(both[:, None] - both, axis=-1)
    median = np.median([distances[i, j] for i in range(11) for j in range(i)])

    def kernel(x, y):
        square = np.square(x - y).sum()
        return np.mean([np.exp(-square / (2 * w**2 * median**2)) for w in KERNEL_WIDTHS])

    within_a = np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    within_b = np.mean([kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    across = np.mean([kernel(x, y) for x in a for y in b])
    # The median is of squares here, of distances there: equal for an odd number of pairs.
    np.testing.assert_allclose(mmd(a, b), within_a + within_b - 2 * across, rtol=1e-9)


def test_mmd_ranks_distributions_and_is_about_zero_for_equal_ones():
    """The mean over 50 pairs of samples has a standard error of a seventh of the spread."""
    samples = RNG.normal(size=(50, 2, 40, 4))
    equal = np.asarray([mmd(a, b) for a, b in samples])
    assert abs(equal.mean()) < 4 * equal.std() / 50**0.5
    assert equal.min() < 0
    a, b = RNG.normal(size=(2, 300, 4))
    # Signs have the mean and covariance of normal values: the Frechet distance can't see them.
    signs = np.sign(b) + 1e-3 * a
    assert mmd(a, b) < mmd(a, b + 0.3) < mmd(a, b + 1) < mmd(a, b + 5)
    assert mmd(a, signs) > 10 * abs(mmd(a, b))


def test_mmd_of_constants_is_told():
    zeros = np.zeros((5, 3))
    assert mmd(zeros, zeros) == 0
    assert mmd(zeros, zeros + 1) > 0.1
    with pytest.raises(ValueError, match="2 members"):
        mmd(zeros[:1], zeros)


def test_frechet_distance_of_gaussians_is_known():
    """Scaling and moving a sample by itself: |difference of means|^2 + sum of squared differences
    of deviations, of the sample's own covariance."""
    sample = RNG.normal(size=(500, 6))
    values = np.linalg.eigvalsh(np.cov(sample.T))
    a, b = FeatureStatistics(), FeatureStatistics()
    a.add(sample)
    b.add(3 * sample + 1)
    moved = np.square(2 * sample.mean(axis=0) + 1).sum()
    np.testing.assert_allclose(frechet_distance(a, b), moved + 4 * values.sum(), rtol=1e-9)


def test_probe_tells_linear_relations_from_none():
    x = RNG.normal(size=(2, 2000, 8))
    matrix = RNG.normal(size=(8, 5))
    y = x @ matrix + 3
    # The ridge takes a thousandth off the map, a millionth off R^2.
    assert linear_probe(x[0], y[0], x[1], y[1]) > 1 - 1e-5
    noise = RNG.normal(size=(2, 2000, 5))
    # A fit of 8 numbers to 2000 examples of nothing: R^2 about -8 / 2000.
    assert abs(linear_probe(x[0], noise[0], x[1], noise[1])) < 0.02
    # Half of the variance is noise.
    half = y + noise * y.std(axis=(0, 1))
    np.testing.assert_allclose(linear_probe(x[0], half[0], x[1], half[1]), 0.5, atol=0.03)


def test_probe_works_with_fewer_examples_than_numbers():
    x, y = RNG.normal(size=(2, 10, 40)), RNG.normal(size=(2, 10, 3))
    assert linear_probe(x[0], y[0], x[1], y[1]) < 1
    assert np.isnan(linear_probe(x[0], y[0], x[1], 0 * y[1]))


def linear_decoder(singular_values, outputs=20):
    d = len(singular_values)
    left, _ = np.linalg.qr(RNG.normal(size=(outputs, d)))
    right, _ = np.linalg.qr(RNG.normal(size=(d, d)))
    matrix = jnp.asarray(left @ np.diag(singular_values) @ right.T, jnp.float32)
    return lambda z: matrix @ z.reshape(-1) + 1.0


@pytest.mark.parametrize(
    "values",
    [np.linspace(0.5, 3, 12), np.full(12, 2.0), np.array([5.0] * 6 + [1.0] * 6)],
    ids=["distinct", "all_equal", "two_values"],
)
def test_singular_values_of_a_linear_decoder_are_found(values):
    """After as many steps as inputs, to float32's rounding of squares."""
    decode = linear_decoder(values)
    point = jnp.asarray(RNG.normal(size=(2, 2, 3)), jnp.float32)
    find = lambda z: latents.stretches(decode, z, steps=50, key=jax.random.key(0))  # noqa: E731
    found = jax.jit(find)(point)
    np.testing.assert_allclose(found.largest, values.max(), rtol=1e-4)
    np.testing.assert_allclose(found.least, values.min(), rtol=1e-3)
    assert values.min() * 0.999 <= found.typical <= values.max() * 1.001


def test_a_few_steps_bracket_from_inside():
    decode = linear_decoder(np.linspace(0.1, 3, 18))
    point = jnp.zeros((3, 6))
    found = jax.jit(lambda z: latents.stretches(decode, z, steps=5, key=jax.random.key(0)))(point)
    assert 2.5 < found.largest < 3 and 0.1 < found.least < 1
    keys = jax.random.split(jax.random.key(1), 400)
    one = lambda key: latents.stretches(decode, point, steps=1, key=key).typical  # noqa: E731
    typical = jax.jit(jax.vmap(one))
    # 400 draws: three standard errors of their mean square are about 4 %.
    mean_square = np.square(np.linspace(0.1, 3, 18)).mean()
    np.testing.assert_allclose(np.square(typical(keys)).mean(), mean_square, rtol=0.1)


def test_stretch_along_a_segment_is_known():
    """A linear decoder's image of a segment is straight; a circle's arc is longer than
    its chord."""
    a, b = jnp.asarray([1.0, 2.0, 0.0]), jnp.asarray([0.0, 2.0, 2.0])
    decode = linear_decoder(np.asarray([1.0, 2.0, 3.0]))
    straight = np.linalg.norm(decode(b) - decode(a))
    np.testing.assert_allclose(latents.path_length(decode, a, b), straight, rtol=1e-5)
    circle = lambda z: 3 * jnp.concatenate([jnp.cos(z), jnp.sin(z)])  # noqa: E731
    ends = jnp.asarray([0.0]), jnp.asarray([np.pi])
    np.testing.assert_allclose(latents.path_length(circle, *ends), 3 * np.pi, rtol=1e-5)


def test_nonlinear_path_length_is_that_of_many_small_chords():
    """The quadrature's 8 points against 2000 chords, whose sum is short by some 1e-6."""
    weights = jnp.asarray(RNG.normal(size=(2, 7, 7)), jnp.float32) / 7**0.5
    decode = lambda z: weights[1] @ jax.nn.silu(2 * weights[0] @ z)  # noqa: E731
    a, b = jnp.asarray(RNG.normal(size=(2, 7)), jnp.float32)
    steps = np.linspace(0, 1, 2001, dtype=np.float32)[:, None]
    points = jax.vmap(decode)(np.asarray(a) + steps * np.asarray(b - a))
    chords = np.linalg.norm(np.diff(np.asarray(points, np.float64), axis=0), axis=1).sum()
    np.testing.assert_allclose(latents.path_length(decode, a, b), chords, rtol=2e-4)

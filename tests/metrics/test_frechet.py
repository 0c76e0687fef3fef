"""The Frechet distance against the usual formula with SciPy's matrix root, and laws of it."""

import numpy as np
import pytest
import scipy.linalg

from cvvae_jax.metrics.frechet import FeatureStatistics, frechet_distance


def statistics(*parts: np.ndarray) -> FeatureStatistics:
    found = FeatureStatistics()
    for part in parts:
        found.add(part)
    return found


def features(seed: int, count: int, width: int, *, offset: float = 0.0) -> np.ndarray:
    """Correlated, of other scales in every direction."""
    rng = np.random.default_rng(seed)
    mixture = rng.normal(size=(width, width)) * np.geomspace(1, 0.01, width)
    return rng.normal(size=(count, width)) @ mixture + rng.normal(size=width) + offset


def textbook(a: np.ndarray, b: np.ndarray) -> float:
    """The distance as FID and FVD codes write it (pytorch-fid to the letter), in float64."""
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    apart = a.mean(0) - b.mean(0)
    return apart @ apart + np.trace(covariances[0] + covariances[1] - 2 * root)


@pytest.mark.parametrize(("count", "width"), [(300, 20), (1000, 64)])
def test_distance_equals_the_textbook_formula(count, width):
    a, b = features(0, count, width), features(1, count + 7, width)
    # The matrix root of a product that isn't symmetric is what is less exact here.
    found = frechet_distance(statistics(a), statistics(b))
    np.testing.assert_allclose(found, textbook(a, b), rtol=1e-8)


def test_distance_of_numbers_is_that_of_means_and_deviations():
    a, b = features(0, 50, 1), 3 * features(1, 70, 1) + 2
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    np.testing.assert_allclose(frechet_distance(statistics(a), statistics(b)), expected, rtol=1e-12)


def test_fewer_features_than_entries_have_a_distance():
    """From the centered features themselves: the trace of the root is a sum of singular values."""
    a, b = features(0, 9, 40), features(1, 12, 40)
    deviations = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    overlap = np.linalg.svd(deviations[0] @ deviations[1].T, compute_uv=False).sum()
    spread = sum(np.sum(x**2) for x in deviations) - 2 * overlap
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + spread
    np.testing.assert_allclose(frechet_distance(statistics(a), statistics(b)), expected, rtol=1e-12)


@pytest.mark.parametrize("count", [5, 500])
def test_equal_sets_have_no_distance_and_order_does_not_matter(count):
    a, b = features(0, count, 30), features(1, count, 30)
    size = np.trace(statistics(a).covariance())
    assert frechet_distance(statistics(a), statistics(a[::-1])) <= 1e-12 * size
    there, back = (frechet_distance(statistics(x), statistics(y)) for x, y in ((a, b), (b, a)))
    np.testing.assert_allclose(there, back, rtol=1e-12)


def test_constant_features_have_the_distance_of_their_means():
    a, b = np.zeros((4, 3)), np.full((4, 3), 2.0)
    assert frechet_distance(statistics(a), statistics(b)) == 12


def test_statistics_of_parts_are_those_of_the_whole_beside_large_means():
    whole = features(0, 200, 10, offset=1e6)
    other = statistics(whole[150:])
    found = statistics(whole[:0], whole[:1], whole[1:120], whole[120:150])
    found.merge(other)
    found.merge(FeatureStatistics())
    assert found.count == 200
    # Features near 1e6 have ten digits left after it; the naive sum of squares would keep four.
    np.testing.assert_allclose(found.mean, whole.mean(0), rtol=1e-15)
    expected = np.cov(whole, rowvar=False)
    np.testing.assert_allclose(found.covariance(), expected, atol=1e-9 * expected.max())
    np.testing.assert_array_equal(other.mean, whole[150:].mean(0))


def test_statistics_taken_over_are_left_as_they_were():
    other, found = statistics(features(0, 5, 3)), FeatureStatistics()
    before = other.covariance()
    found.merge(other)
    found.add(features(1, 4, 3))
    assert other.count == 5
    np.testing.assert_array_equal(other.covariance(), before)


def test_what_has_no_covariance_is_refused():
    one = statistics(np.ones((1, 3)))
    with pytest.raises(ValueError, match="two features at least, not 1"):
        frechet_distance(one, one)
    with pytest.raises(ValueError, match="two features at least, not 0"):
        FeatureStatistics().covariance()


def test_features_of_other_lengths_are_refused():
    a, b = statistics(np.eye(3)), statistics(np.eye(4))
    with pytest.raises(ValueError, match="lengths 3 and 4"):
        frechet_distance(a, b)
    with pytest.raises(ValueError, match="length 4, those before 3"):
        a.merge(b)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="must be finite"):
        statistics(np.array([[1.0, np.nan]]))

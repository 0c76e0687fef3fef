"""Figures of latents whose answers are known: white noise, smoothed and permuted latents."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter1d

from cvvae_jax.metrics import diffusability
from cvvae_jax.metrics.diffusability import (
    fine_share,
    gaussian_velocity_variance,
    nearest_others,
    spatial_spectrum,
    temporal_spectrum,
    velocity_variance,
)
from cvvae_jax.metrics.latents import principal_angles

RNG = np.random.default_rng(0)
WHITE = RNG.normal(size=(33, 16, 24, 4))


def test_bins_add_up_to_the_variance():
    frames = WHITE - WHITE.mean(axis=(1, 2), keepdims=True)
    wanted = np.square(frames).sum(axis=3).mean()
    np.testing.assert_allclose(spatial_spectrum(WHITE + 5).sum(), wanted, rtol=1e-12)
    over_time = WHITE - WHITE.mean(axis=0)
    wanted = np.square(over_time).sum(axis=3).mean()
    np.testing.assert_allclose(temporal_spectrum(WHITE + 5).sum(), wanted, rtol=1e-12)


def test_a_wave_is_in_the_bin_of_its_frequency():
    """Waves of 1/8 cycle along x, 3/8 along y, 5/16 along time, mirrored at the borders."""
    x, y, t = (np.arange(16) + 0.5 for _ in range(3))
    along_x = np.broadcast_to(np.cos(2 * np.pi * x / 8)[None, None, :, None], (2, 16, 16, 1))
    assert np.flatnonzero(spatial_spectrum(along_x) > 1e-9).tolist() == [2]
    both = along_x * np.cos(2 * np.pi * 3 * y / 8)[None, :, None, None]
    assert np.flatnonzero(spatial_spectrum(both) > 1e-9).tolist() == [int(np.hypot(2, 6))]
    in_time = np.cos(2 * np.pi * 5 * t / 16)[:, None, None, None] + np.zeros((16, 2, 2, 1))
    assert np.flatnonzero(temporal_spectrum(in_time) > 1e-9).tolist() == [5]


def test_white_noise_is_as_fine_as_there_are_fine_frequencies():
    """The share of coefficients; 50,688 draws leave less than a hundredth of chance."""
    radius = np.hypot(np.arange(16)[:, None] / 32, np.arange(24) / 48)
    wanted = (radius >= 0.25).sum() / (radius.size - 1)
    np.testing.assert_allclose(fine_share(spatial_spectrum(WHITE)), wanted, atol=0.01)
    assert abs(wanted - (1 - np.pi / 16)) < 0.03
    np.testing.assert_allclose(fine_share(temporal_spectrum(WHITE)), 16 / 32, atol=0.01)


def test_smoothing_takes_fine_detail_away_and_permuting_channels_nothing():
    smooth = uniform_filter1d(uniform_filter1d(WHITE, 3, axis=1), 3, axis=2)
    assert fine_share(spatial_spectrum(smooth)) < 0.5 * fine_share(spatial_spectrum(WHITE))
    slow = uniform_filter1d(WHITE, 3, axis=0)
    assert fine_share(temporal_spectrum(slow)) < 0.6 * fine_share(temporal_spectrum(WHITE))
    for spectrum in (spatial_spectrum, temporal_spectrum):
        permuted = spectrum(7 * smooth[..., [2, 0, 3, 1]])
        np.testing.assert_allclose(permuted, 49 * spectrum(smooth), rtol=1e-9)


def test_what_does_not_vary_has_no_share():
    assert np.isnan(fine_share(spatial_spectrum(np.ones((3, 4, 4, 2)))))
    assert np.isnan(fine_share(temporal_spectrum(WHITE[:1])))


def normal(count: int, deviations: np.ndarray, seed: int) -> np.ndarray:
    """Normal vectors along axes that are no coordinate's, with a mean."""
    rng = np.random.default_rng(7)
    axes, _ = np.linalg.qr(rng.normal(size=(len(deviations), len(deviations))))
    return np.random.default_rng(seed).normal(size=(count, len(deviations))) * deviations @ axes + 3


def test_velocity_of_white_noise_is_known():
    """The eigenvalues of 20,000 vectors' covariance are within some hundredths of 1."""
    white = normal(20_000, np.ones(4), seed=0)
    np.testing.assert_allclose(gaussian_velocity_variance(white), np.pi / 2, rtol=1e-3)
    levels = np.asarray(diffusability.LEVELS)
    wanted = (1 / ((1 - levels) ** 2 + levels**2)).mean()
    found = velocity_variance(white[:500], normal(800, np.ones(4), seed=1))
    np.testing.assert_allclose(found, wanted, rtol=0.06)


def test_velocity_of_a_normal_distribution_follows_its_deviations():
    deviations = np.array([4.0, 2.0, 1.0, 0.5])
    scale = np.sqrt(np.square(deviations).mean())
    wanted = np.pi / 2 * (deviations / scale).mean()
    sample = normal(20_000, deviations, seed=2)
    np.testing.assert_allclose(gaussian_velocity_variance(sample), wanted, rtol=0.01)
    levels = np.asarray(diffusability.LEVELS)[:, None]
    variances = np.square(deviations / scale)
    wanted = (variances / ((1 - levels) ** 2 * variances + levels**2)).mean()
    found = velocity_variance(sample[:500], normal(800, deviations, seed=3))
    np.testing.assert_allclose(found, wanted, rtol=0.06)


def test_velocity_of_two_points_is_known_and_below_the_linear_risk():
    """For x = -1 or 1, the mean given z is tanh((1 - t) z / t^2); the integral over the noise is a
    sum over a fine grid. The narrowest kernel stands for a point up to its width, 0.02."""
    noise = np.linspace(-8, 8, 4001)
    weight = np.exp(-(noise**2) / 2)
    weight /= weight.sum()
    wanted = np.mean(
        [
            weight @ np.square(1 - np.tanh((1 - t) * (1 - t + t * noise) / t**2)) / t**2
            for t in diffusability.LEVELS
        ]
    )
    points = np.tile([[-1.0], [1.0]], (1000, 1))
    found = velocity_variance(points[:100], points)
    np.testing.assert_allclose(found, wanted, rtol=0.1)
    assert found < 0.8 * gaussian_velocity_variance(points)


def test_smoothing_lowers_the_variance_of_the_velocity_and_permuting_leaves_it():
    white, other = normal(3000, np.ones(8), 4), normal(3000, np.ones(8), 5)
    smooth, others = (uniform_filter1d(part - 3, 3, axis=1) for part in (white, other))
    order = RNG.permutation(8)
    for figure in (
        lambda a, b: gaussian_velocity_variance(a),
        lambda a, b: velocity_variance(a[:200], b[:200]),
    ):
        assert figure(smooth, others) < 0.85 * figure(white, other)
    exact = gaussian_velocity_variance(5 * smooth[:, order])
    np.testing.assert_allclose(exact, gaussian_velocity_variance(smooth), rtol=1e-9)
    # The noise meets other coordinates, so that the risk is equal up to chance.
    found = velocity_variance(5 * smooth[:200, order], 5 * others[:200, order])
    np.testing.assert_allclose(found, velocity_variance(smooth[:200], others[:200]), rtol=0.06)


def test_patches_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="two patches"):
        gaussian_velocity_variance(np.ones((1, 3)))
    with pytest.raises(ValueError, match="all alike"):
        velocity_variance(np.ones((5, 3)), np.ones((5, 3)))


def test_nearest_others_are_found_far_from_zero():
    rows = np.array([[0.0, 0], [5, 0], [0.5, 0], [5, 2], [9, 9]]) + 1e6
    assert nearest_others(rows).tolist() == [2, 3, 0, 1, 3]
    with pytest.raises(ValueError, match="two sets"):
        nearest_others(rows[:1])


def test_principal_angles_are_those_of_the_planes():
    """Two dimensions vary, and one of them is turned by 30 degrees towards a third."""
    plane = np.zeros((400, 5))
    plane[:, :2] = RNG.normal(size=(400, 2)) * [3, 2]
    turned = plane.copy()
    turned[:, 1] = plane[:, 1] * np.cos(np.pi / 6)
    turned[:, 2] = plane[:, 1] * np.sin(np.pi / 6)
    np.testing.assert_allclose(principal_angles(plane, plane), [0, 0], atol=1e-5)
    np.testing.assert_allclose(principal_angles(3 * turned + 1, plane), [30, 0], atol=1e-5)
    permuted = plane[:, [2, 0, 1, 3, 4]]
    np.testing.assert_allclose(principal_angles(permuted, plane), [90, 0], atol=1e-5)
    assert principal_angles(plane, plane, share=0.5).shape == (1,)
    with pytest.raises(ValueError, match="2 members"):
        principal_angles(plane[:1], plane)
    with pytest.raises(ValueError, match="doesn't vary"):
        principal_angles(plane, 0 * plane)


def test_angles_of_whole_spaces_are_zero():
    a, b = RNG.normal(size=(2, 50, 3))
    np.testing.assert_allclose(principal_angles(a, b, share=1.0), np.zeros(3), atol=1e-5)

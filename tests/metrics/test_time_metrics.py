"""Metrics over time against SciPy, and on videos with planted defects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from cvvae_jax.metrics import time
from cvvae_jax.metrics.image import mse
from cvvae_jax.models.inputs import to_float

difference_mse = jax.jit(time.difference_mse)
drift_mse = jax.jit(time.drift_mse)
error_spectrum = jax.jit(time.error_spectrum, static_argnames="window")


def random_pair(*shape: int, noise: float = 0.1, seed: int = 0):
    rng = np.random.default_rng(seed)
    video = rng.uniform(-0.5, 0.5, (*shape, 3)).astype(np.float32)
    return jnp.asarray(video + noise * rng.normal(size=video.shape).astype("f")), jnp.asarray(video)


def test_difference_mse_is_of_frames_differences():
    recon, video = random_pair(2, 5, 3, 4)
    x, y = np.asarray(recon, np.float64), np.asarray(video, np.float64)
    expected = np.square((x[:, 1:] - x[:, :-1]) - (y[:, 1:] - y[:, :-1])).mean((2, 3, 4))
    # Sums of 36 float32 values.
    np.testing.assert_allclose(difference_mse(recon, video), expected, rtol=1e-5)
    assert difference_mse(recon[:, :1], video[:, :1]).shape == (2, 0)


@pytest.mark.parametrize(("frames", "window"), [(16, 16), (32, 16), (7, 2), (10, 4), (40, 8)])
def test_spectrum_equals_scipys_welch(frames, window):
    """Where windows overlap by exactly half, SciPy cuts the same ones."""
    recon, video = random_pair(2, frames, 3, 2)
    hann = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
    means = []

    def without_mean(segments):
        mean = (segments * hann**2).sum(-1, keepdims=True) / np.sum(hann**2)
        means.append(mean[..., 0])  # once for every window
        return segments - mean

    errors = np.moveaxis(np.asarray(recon, np.float64) - np.asarray(video, np.float64), 1, -1)
    cycles, power = scipy.signal.welch(
        errors,
        window=hann,
        detrend=without_mean,
        scaling="density",
        nperseg=window,
        noverlap=window // 2,
    )
    expected = power.mean((1, 2, 3)) / window
    expected[:, 0] += np.square(np.stack(means, axis=1)).mean((1, 2, 3, 4))
    np.testing.assert_allclose(time.frequencies(window), cycles, atol=1e-15)
    # float32 products and sums of some hundred values.
    spectrum = error_spectrum(recon, video, window=window)
    np.testing.assert_allclose(spectrum, expected, rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 2, 5, 16, 17, 37])
def test_powers_add_up_to_the_squared_error_as_the_windows_weight_it(frames):
    recon, video = random_pair(2, frames, 3, 2)
    starts, length = time._windows(frames, 16)
    squares = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 4
    weights = np.zeros(frames)
    for start in starts:
        weights[start : start + length] += squares / squares.sum() / len(starts)
    assert (weights > 0).all(), "frames that don't count"
    spectrum = error_spectrum(recon, video)
    assert spectrum.shape == (2, 9)
    # float32 sums of some hundred values.
    np.testing.assert_allclose(spectrum.sum(1), mse(recon, video) @ weights, rtol=1e-5)


@pytest.mark.parametrize("frames", [3, 16, 21])
def test_powers_of_a_constant_size_add_up_to_the_mean_squared_error(frames):
    signs = np.random.default_rng(0).choice([-0.1, 0.1], (1, frames, 4, 4, 3))
    spectrum = error_spectrum(jnp.asarray(signs, jnp.float32), jnp.zeros(signs.shape))
    np.testing.assert_allclose(spectrum.sum(), 0.01, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 9, 16, 30])
def test_error_that_stands_still_is_at_frequency_zero_alone(frames):
    still = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 1, 4, 4, 3))
    recon = jnp.asarray(np.repeat(still, frames, axis=1), jnp.float32)
    spectrum = error_spectrum(recon, jnp.zeros_like(recon))[0]
    np.testing.assert_allclose(spectrum[0], np.mean(still**2), rtol=1e-5)
    # Squares of float32's rounding.
    np.testing.assert_allclose(spectrum[1:], 0, atol=1e-12)


@pytest.mark.parametrize("cycles", [3 / 16, 1 / 4, 3 / 8, 1 / 2])
def test_wave_has_its_power_at_its_frequency(cycles):
    """But for the two lowest frequencies, which share theirs with the mean that is kept apart."""
    wave = 0.1 * np.cos(2 * np.pi * cycles * np.arange(32))[None, :, None, None, None]
    recon = jnp.asarray(np.broadcast_to(wave, (1, 32, 2, 2, 3)), jnp.float32)
    spectrum = np.asarray(error_spectrum(recon, jnp.zeros_like(recon))[0])
    assert time.frequencies()[spectrum.argmax()] == cycles
    near = np.abs(time.frequencies() - cycles) < 1.5 / 16
    assert spectrum[near].sum() > 0.999 * spectrum.sum()


def test_flicker_counts_power_from_a_quarter_cycle_up():
    spectrum = np.zeros((2, 9))
    spectrum[0, [0, 3]] = 1.0
    spectrum[1, [4, 8]] = (3 / 127.5) ** 2, (4 / 127.5) ** 2
    np.testing.assert_allclose(time.flicker(spectrum), [0, 5])
    assert time.flicker(spectrum[1]) == pytest.approx(5)


@pytest.mark.parametrize("window", [0, 7])
def test_windows_are_even(window):
    with pytest.raises(ValueError, match=f"even number of frames, not {window}"):
        error_spectrum(*random_pair(1, 3, 2, 2), window=window)


def test_clips_in_a_batch_do_not_meet():
    recon, video = random_pair(3, 20, 4, 4)
    for measure in (difference_mse, error_spectrum, drift_mse):
        alone = measure(recon[1:2], video[1:2])
        # In another batch only the order of float32 sums may differ.
        np.testing.assert_allclose(measure(recon, video)[1:2], alone, rtol=1e-5)


def test_drift_is_numpys_line_through_errors_of_8_bit_levels():
    rng = np.random.default_rng(0)
    recon, video = rng.integers(64, 192, (2, 2, 7, 4, 5, 3), np.uint8)
    times = np.arange(7)
    errors = (recon.astype(np.float64) - video).swapaxes(0, 1).reshape(7, -1)
    slopes = np.polyfit(times, errors, 1)[0].reshape(2, -1)
    expected = np.sqrt(np.square(slopes).mean(axis=1) * times.var())
    found = time.levels_of(drift_mse(to_float(recon), to_float(video)))
    # float32 sums of some hundred values.
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_drift_of_one_frame_is_none():
    recon, video = random_pair(2, 1, 4, 4)
    np.testing.assert_array_equal(drift_mse(recon, video), 0)


def test_positions_are_of_the_first_frame_and_of_groups_after_it():
    values = np.array([[0, 1, 2, 3, 4, 5, 6], [10, 11, 12, 13, 14, 15, 16]])
    np.testing.assert_array_equal(time.by_position(values, 3), [5, 7.5, 8.5, 9.5])
    np.testing.assert_array_equal(time.by_position(values[:, :3], 3), [5, 6, 7, np.nan])

"""Metrics over time against SciPy, and on videos with planted defects."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from cvvae_jax.metrics import time


def random_pair(*shape: int, noise: float = 0.1, seed: int = 0):
    rng = np.random.default_rng(seed)
    video = rng.uniform(-0.5, 0.5, (*shape, 3)).astype(np.float32)
    return jnp.asarray(video + noise * rng.normal(size=video.shape).astype("f")), jnp.asarray(video)


def test_difference_mse_is_of_frames_differences():
    recon, video = random_pair(2, 5, 3, 4)
    x, y = np.asarray(recon, np.float64), np.asarray(video, np.float64)
    expected = np.square((x[:, 1:] - x[:, :-1]) - (y[:, 1:] - y[:, :-1])).mean((2, 3, 4))
    # Sums of 36 float32 values.
    np.testing.assert_allclose(time.difference_mse(recon, video), expected, rtol=1e-5)
    assert time.difference_mse(recon[:, :1], video[:, :1]).shape == (2, 0)


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
    spectrum = time.error_spectrum(recon, video, window=window)
    np.testing.assert_allclose(spectrum, expected, rtol=1e-4)

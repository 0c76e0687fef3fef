import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cvvae_jax.metrics.compatibility import in_step
from cvvae_jax.metrics.image import psnr, ssim


def test_psnr_equals_scikit_image_frame_by_frame():
    video, noise = jax.random.uniform(jax.random.key(0), (2, 2, 3, 8, 8, 3), minval=-1)
    recon = jnp.clip(video + 0.1 * noise, -1, 1)
    ours = psnr(recon, video)
    for b in range(2):
        for t in range(3):
            theirs = peak_signal_noise_ratio(
                np.asarray(video[b, t]), np.asarray(recon[b, t]), data_range=2
            )
            np.testing.assert_allclose(ours[b, t], theirs, rtol=1e-5)


def test_psnr_ignores_what_clipping_removes():
    video = jnp.ones((1, 1, 4, 4, 3))
    assert psnr(video + 5, video) >= 100


def test_images_of_latents_last_as_long_as_what_they_stand_for():
    frames = np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1, 1)
    held = in_step(frames, temporal_compression=4)
    np.testing.assert_array_equal(held.ravel(), [0, 1, 1, 1, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(in_step(frames[:, :1], temporal_compression=4), frames[:, :1])


@pytest.mark.parametrize("noise", [0.01, 0.3, 2.0])
def test_ssim_equals_scikit_image_frame_by_frame(noise):
    rng = np.random.default_rng(0)
    ramp = np.linspace(-1, 1, 19)[:, None, None] * np.ones((1, 24, 3))
    video = np.clip(ramp + rng.normal(0, 0.2, (2, 2, 19, 24, 3)), -1, 1).astype("f")
    recon = np.clip(video + noise * rng.normal(size=video.shape), -1, 1).astype("f")
    ours = ssim(jnp.asarray(recon), jnp.asarray(video))
    for b, t in np.ndindex(2, 2):
        theirs = structural_similarity(
            video[b, t],
            recon[b, t],
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=2,
            channel_axis=-1,
        )  # averages over windows inside of the frame as well
        np.testing.assert_allclose(ours[b, t], theirs, atol=2e-5)


def test_ssim_of_equal_frames_is_one_and_of_what_clipping_removes_too():
    video = jnp.ones((1, 1, 11, 11, 3))
    np.testing.assert_allclose(ssim(video + 5, video), 1, atol=1e-5)


def test_ssim_needs_frames_of_a_window():
    video = jnp.zeros((1, 1, 16, 10, 3))
    with pytest.raises(ValueError, match="11 pixels, not 16 x 10"):
        ssim(video, video)

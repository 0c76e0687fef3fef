import jax
import jax.numpy as jnp
import numpy as np
from skimage.metrics import peak_signal_noise_ratio

from cvvae_jax.metrics.compatibility import compat_psnr
from cvvae_jax.metrics.image import psnr


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


def test_compat_psnr_is_the_mean_over_the_frames_a_latent_frame_stands_for():
    video = jax.random.uniform(jax.random.key(0), (2, 9, 4, 4, 3), minval=-1)
    views = jax.random.uniform(jax.random.key(1), (2, 3, 4, 4, 3), minval=-1)
    ours = compat_psnr(views, video, temporal_compression=4)
    expected = np.mean([psnr(views[:, 2:3], video[:, t : t + 1]) for t in range(5, 9)], axis=0)
    np.testing.assert_allclose(ours[:, 2], expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(ours[:, :1], psnr(views[:, :1], video[:, :1]), rtol=1e-5)

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


def test_compat_psnr_compares_every_frame_with_the_image_of_its_group():
    video = jax.random.uniform(jax.random.key(0), (2, 9, 4, 4, 3), minval=-1)
    views = jax.random.uniform(jax.random.key(1), (2, 3, 4, 4, 3), minval=-1)
    ours = compat_psnr(views, video, temporal_compression=4)
    for frame, view in enumerate([0, 1, 1, 1, 1, 2, 2, 2, 2]):
        expected = psnr(views[:, view : view + 1], video[:, frame : frame + 1])[:, 0]
        np.testing.assert_allclose(ours[:, frame], expected, rtol=1e-5)

"""How near one frame is to another."""

import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Float

from cvvae_jax import rows

SSIM_WINDOW = 11
"""Height and width in pixels of the window of SSIM, and of the smallest frames it is defined on."""
_SSIM_SIGMA = 1.5
# Squares of K1 = 0.01 and K2 = 0.03 times the range of values, 2.
_SSIM_C1, _SSIM_C2 = 0.02**2, 0.06**2


def psnr(recon: Float[Array, "b t h w 3"], video: Float[Array, "b t h w 3"]) -> Float[Array, "b t"]:
    """Peak signal-to-noise ratio of every frame in dB, for values in [-1, 1]; `recon` is clipped to
    them."""
    error = jnp.clip(recon, -1.0, 1.0).astype(jnp.float32) - video
    mean = rows.average(jnp.square(error).mean(axis=(2, 3, 4)))
    return -10.0 * jnp.log10(mean / 4.0 + 1e-10)


def ssim(recon: Float[Array, "b t h w 3"], video: Float[Array, "b t h w 3"]) -> Float[Array, "b t"]:
    """Structural similarity of every frame (Wang et al. 2004), 1 for equal ones, for values in
    [-1, 1]; `recon` is clipped to them.

    Gaussian windows of 11 x 11 pixels, only those that lie inside of the frame; channels are
    measured one by one and averaged.

    Raises:
        ValueError: frames are smaller than a window.
    """
    if min(video.shape[2:4]) < SSIM_WINDOW:
        height, width = video.shape[2:4]
        raise ValueError(f"SSIM needs frames of {SSIM_WINDOW} pixels, not {height} x {width}.")
    x, y = jnp.clip(recon, -1.0, 1.0).astype(jnp.float32), video.astype(jnp.float32)
    mean_x, mean_y, *squares = _windowed(jnp.stack([x, y, x * x, y * y, x * y]))
    var_x, var_y, cov = (
        square - product
        for square, product in zip(squares, (mean_x**2, mean_y**2, mean_x * mean_y), strict=True)
    )
    alike = (2 * mean_x * mean_y + _SSIM_C1) * (2 * cov + _SSIM_C2)
    apart = (mean_x**2 + mean_y**2 + _SSIM_C1) * (var_x + var_y + _SSIM_C2)
    return (alike / apart).mean(axis=(2, 3, 4))


def _windowed(values: Float[Array, "n b t h w c"]) -> Float[Array, "n b t i j c"]:
    """Gaussian means over all windows inside of the frame."""
    _, _, _, h, w, _ = values.shape
    rows, columns = _window_matrix(h), _window_matrix(w)
    # Variances are small differences of these, which the usual rounding of products would drown.
    return jnp.einsum("ih,nbthwc,jw->nbtijc", rows, values, columns, precision=Precision.HIGHEST)


def _window_matrix(size: int) -> np.ndarray:
    """Row i holds the weights of the window that starts at pixel i: float32 (size - 10, size)."""
    distance = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (distance / _SSIM_SIGMA) ** 2)
    matrix = np.zeros((size - SSIM_WINDOW + 1, size), np.float32)
    for i in range(len(matrix)):
        matrix[i, i : i + SSIM_WINDOW] = weights / weights.sum()
    return matrix

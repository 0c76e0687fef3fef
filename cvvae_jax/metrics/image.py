"""How near one frame is to another."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cvvae_jax import split_frames

SSIM_WINDOW = 11
"""Height and width in pixels of the window of SSIM, and of the smallest frames it is defined on."""
_SSIM_SIGMA = 1.5
# Squares of K1 = 0.01 and K2 = 0.03 times the range of values: it is 1, of values in [0, 1].
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2

MS_SSIM_PIXELS = SSIM_WINDOW * 2**4
"""Height and width in pixels of the smallest frames that MS-SSIM is defined on, 176."""
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

_PSNR_LIMIT = 100.0


def mse(recon: Float[Array, "b t h w 3"], video: Float[Array, "b t h w 3"]) -> Float[Array, "b t"]:
    """Mean squared error of every frame, float32, for values in [-1, 1]; `recon` is clipped to
    them."""
    return split_frames.mean_over_devices(jnp.square(error(recon, video)).mean(axis=(2, 3, 4)))


def psnr(recon: Float[Array, "b t h w 3"], video: Float[Array, "b t h w 3"]) -> Float[Array, "b t"]:
    """Peak signal-to-noise ratio of every frame in dB, at most 100, for values in [-1, 1]; `recon`
    is clipped to them."""
    return psnr_of(mse(recon, video))


def psnr_of(
    mse: Float[Array | np.ndarray | np.generic, "*shape"],
) -> Float[Array | np.ndarray | np.generic, "*shape"]:
    """Mean squared errors of values in [-1, 1] as peak signal-to-noise ratios in dB, at most 100.

    JAX arrays and NumPy ones stay what they are, of the same dtype.
    """
    xp = mse.__array_namespace__()
    least = xp.asarray(4.0 * 10.0 ** (-_PSNR_LIMIT / 10.0), dtype=mse.dtype)
    return -10.0 * xp.log10(xp.maximum(mse, least) / 4.0)


def ssim(recon: Float[Array, "b t h w 3"], video: Float[Array, "b t h w 3"]) -> Float[Array, "b t"]:
    """Structural similarity of every frame (Wang et al. 2004), 1 for equal ones, for values in
    [-1, 1]; `recon` is clipped to them.

    Measured as the paper defines it, on pixels that are never negative: scaled to [0, 1] with the
    range 1, which is the same as 8-bit values with the range 255. Gaussian windows of 11 x 11
    pixels, only those that lie inside of the frame; channels are measured one by one and averaged.

    Raises:
        ValueError: frames are smaller than a window.
    """
    _require("SSIM", video, SSIM_WINDOW)
    luminance, contrast = _similarity(*_around_gray(recon, video))
    return (luminance * contrast).mean(axis=(2, 3, 4))


def ms_ssim(
    recon: Float[Array, "b t h w 3"], video: Float[Array, "b t h w 3"]
) -> Float[Array, "b t"]:
    """Multi-scale structural similarity of every frame (Wang, Simoncelli & Bovik 2003), 1 for equal
    ones, for values in [-1, 1]; `recon` is clipped to them, and both are scaled to [0, 1] as for
    `ssim`.

    A product of the contrast and structure terms of SSIM at four scales, each half the one before
    (means of 2 x 2 pixels; an odd last row or column is left out), and of SSIM at a fifth, to the
    powers of the paper. Factors are averaged over windows and channels before they are multiplied,
    and negative averages count as 0. At the fifth scale, where few windows fit inside, frames are
    mirrored at their borders, as torchmetrics 1.9 does; codes that multiply channel by channel,
    mirror nothing or pad odd frames give slightly other numbers.

    Raises:
        ValueError: frames have less than 176 pixels in height or width.
    """
    _require("MS-SSIM", video, MS_SSIM_PIXELS)
    x, y = _around_gray(recon, video)
    product = jnp.ones(video.shape[:2], jnp.float32)
    for weight in _MS_SSIM_WEIGHTS[:-1]:
        _, contrast = _similarity(x, y)
        product *= _positive_mean(contrast) ** weight
        x, y = _halved(x), _halved(y)
    luminance, contrast = _similarity(_mirrored(x), _mirrored(y))
    return product * _positive_mean(luminance * contrast) ** _MS_SSIM_WEIGHTS[-1]


def error(
    recon: Float[Array, "b t h w 3"], video: Float[Array, "b t h w 3"]
) -> Float[Array, "b t h w 3"]:
    """Clipped reconstruction minus video, float32."""
    return _clipped(recon) - video.astype(jnp.float32)


def _clipped(recon):
    return jnp.clip(recon, -1.0, 1.0).astype(jnp.float32)


def _around_gray(recon, video):
    """Clipped reconstruction and video in [-0.5, 0.5]: pixels in [0, 1], less 0.5."""
    return _clipped(recon) / 2, video.astype(jnp.float32) / 2


def _require(name: str, video: Array, pixels: int) -> None:
    if min(video.shape[2:4]) < pixels:
        height, width = video.shape[2:4]
        raise ValueError(f"{name} needs frames of {pixels} pixels, not {height} x {width}.")


def _similarity(x: Float[Array, "b t h w c"], y: Float[Array, "b t h w c"]):
    """The luminance term of SSIM, and the product of its contrast and structure terms, at every
    window, of frames in [-0.5, 0.5].

    Variances don't depend on what is added to all pixels, and in float32 are exacter around 0; the
    luminance term is defined on the means of pixels in [0, 1]. Written by the difference of the two
    frames, 1 - (..) / (.. + C): equal to the paper's fractions, but where frames are alike,
    rounding shrinks with their difference.
    """
    squares, square_of_difference = x * x + y * y, jnp.square(x - y)
    mean_x, mean_y, *means = _windowed(jnp.stack([x, y, squares, square_of_difference]))
    apart = jnp.square(mean_x - mean_y)
    luminance = 1 - apart / ((mean_x + 0.5) ** 2 + (mean_y + 0.5) ** 2 + _SSIM_C1)
    contrast = 1 - (means[1] - apart) / (means[0] - mean_x**2 - mean_y**2 + _SSIM_C2)
    return luminance, contrast


def _positive_mean(term: Float[Array, "b t i j c"]) -> Float[Array, "b t"]:
    return jnp.maximum(term.mean(axis=(2, 3, 4)), 0.0)


def _mirrored(video: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w2 c"]:
    """As many windows as pixels: the outermost ones are centered on the border."""
    edge = (SSIM_WINDOW // 2,) * 2
    return jnp.pad(video, ((0, 0), (0, 0), edge, edge, (0, 0)), mode="reflect")


def _halved(video: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w2 c"]:
    b, t, h, w, c = video.shape
    whole = video[:, :, : h // 2 * 2, : w // 2 * 2]
    return whole.reshape(b, t, h // 2, 2, w // 2, 2, c).mean(axis=(3, 5))


def _windowed(values: Float[Array, "n b t h w c"]) -> Float[Array, "n b t i j c"]:
    """Gaussian means over all windows inside of the frame.

    As sums of shifted frames: the time of a product with a banded matrix grows with the square of
    the frame's side, and XLA's convolutions of single channels are slower still on CPUs.
    """
    height, width = (size - SSIM_WINDOW + 1 for size in values.shape[3:5])
    weights = np.exp(-0.5 * ((np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) / _SSIM_SIGMA) ** 2)
    taps = [(i, float(weight)) for i, weight in enumerate(weights / weights.sum())]
    down = sum(weight * values[:, :, :, i : i + height] for i, weight in taps)
    return sum(weight * down[:, :, :, :, i : i + width] for i, weight in taps)

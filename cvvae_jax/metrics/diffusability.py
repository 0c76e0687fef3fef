"""How hard latents are for a diffusion model: their spectra, the variance of its velocity target
that no model explains, and what lies between neighbors. None of this needs a trained model.

Latents are NumPy arrays on the host; everything is computed in float64. All figures are the same
for latents times a constant and for permuted channels, since a diffusion model can learn either.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.fft import dctn
from scipy.special import softmax

BIN = 1 / 16
"""Width of a spectrum's bins, in cycles per latent or per latent frame."""
FINE = 1 / 4
"""Frequencies from here on are fine: a wave is four latents, or latent frames, long at most."""
_SPACE_BINS = 12  # up to sqrt(1/2) cycles, that of a checkerboard
_TIME_BINS = 8  # up to 1/2 cycle

LEVELS = tuple((k + 0.5) / 8 for k in range(8))
"""Levels of noise that the variance of the velocity is averaged over: the midpoints of eighths."""
SMOOTHINGS = (0.02, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""Widths of the kernels of `velocity_variance`, as multiples of the latents' own deviation."""


def spatial_spectrum(latents: Float[np.ndarray, "n y x z"]) -> Float[np.ndarray, "12"]:
    """The power of latent frames by spatial frequency, in bins of `BIN` cycles per latent.

    A frame's cosine transform (DCT-II) takes it for mirrored at its borders, so that a gradient has
    no step there; each coefficient counts at the length of its two frequencies. Each frame's mean
    is left out. Powers are sums over channels, as one scale for all of them leaves their ratios,
    and means over frames and positions: the bins add up to the variance within frames.
    """
    n, y, x, _ = latents.shape
    power = np.square(dctn(latents.astype(np.float64), axes=(1, 2), norm="ortho"))
    power = power.sum(axis=(0, 3)) / (n * y * x)
    power[0, 0] = 0.0
    frequency = np.hypot(np.arange(y)[:, None] / (2 * y), np.arange(x) / (2 * x))
    return _binned(frequency, power, bins=_SPACE_BINS)


def temporal_spectrum(latents: Float[np.ndarray, "n y x z"]) -> Float[np.ndarray, "8"]:
    """The power of latents by temporal frequency, in bins of `BIN` cycles per latent frame.

    As `spatial_spectrum`, along time: the mean over time at each position is left out, and the bins
    add up to the variance over time. They are zeros for a single latent frame.
    """
    n, y, x, _ = latents.shape
    power = np.square(dctn(latents.astype(np.float64), axes=(0,), norm="ortho"))
    power = power.sum(axis=(1, 2, 3)) / (n * y * x)
    power[0] = 0.0
    return _binned(np.arange(n) / (2 * n), power, bins=_TIME_BINS)


def fine_share(spectrum: Float[np.ndarray, " f"]) -> float:
    """The share of a spectrum's power at `FINE` and above; NaN for a spectrum without power.

    White noise has 1 - pi / 16 = 0.80 of it there in large frames, and half of it over time.
    """
    total = spectrum.sum()
    return float(spectrum[round(FINE / BIN) :].sum() / total) if total else float("nan")


def _binned(frequency: np.ndarray, power: np.ndarray, *, bins: int) -> np.ndarray:
    # An ulp more keeps frequencies on a border, such as 1/4, in the bin that begins there.
    places = (frequency.reshape(-1) / BIN * (1 + 1e-12)).astype(int)
    return np.bincount(places, weights=power.reshape(-1), minlength=bins)


def gaussian_velocity_variance(patches: Float[np.ndarray, "p d"]) -> float:
    """`velocity_variance` of normally distributed latents with the covariance of these, in closed
    form: the risk of the best linear model.

    Along an eigenvector of the covariance with eigenvalue v, the velocity's variance that is left
    at a level t of noise is v / ((1 - t)^2 v + t^2), whose integral over t is (pi / 2) sqrt(v).
    Eigenvalues have the mean 1, so that the figure is pi / 2 = 1.57 for white noise, and the less,
    the more latents tell about each other. It needs many more patches than they have values.

    Raises:
        ValueError: there are fewer than two patches, or they don't vary.
    """
    _, scale, (values, _) = _moments(patches)
    return float(np.pi / 2 * np.sqrt(values / scale).mean())


def velocity_variance(
    known: Float[np.ndarray, "m d"], tested: Float[np.ndarray, "n d"], *, seed: int = 0
) -> float:
    """The variance of the velocity target that no model can explain, per value of the latents, as
    an upper bound found from samples.

    Rectified flow's noised latents are z = (1 - t) x + t e with normal noise e, and a model learns
    the velocity e - x from z alone. It is left with the variance that e - x has given z, however
    large it is ("velocity irreducible variance", Zhong et al. 2026, arXiv 2606.03578). Here the
    latents' distribution is estimated from the known patches by normal kernels of a width h,
    shrunk so that the covariance stays that of the patches (West 1993); the ideal velocity under
    this estimate is tested on other patches. Any estimate's mean squared error is at least the
    variance wanted, in expectation, so that the least one over `SMOOTHINGS` is taken, for each
    level of noise. A width of 1 is the normal distribution, so that the figure is about
    `gaussian_velocity_variance` at most; more known patches bring it down towards the truth.
    Compare figures of equally many.

    Args:
        known: patches of some clips.
        tested: patches of other clips.
        seed: of the noise.

    Returns:
        The mean over `LEVELS`, in units in which the latents' mean variance is 1.

    Raises:
        ValueError: there are fewer than two known patches, or they don't vary.
    """
    mean, scale, (values, axes) = _moments(known)
    # In the axes of the covariance, kernels are round but for a factor for each axis.
    known, tested = ((part.astype(np.float64) - mean) @ axes for part in (known, tested))
    known, tested, values = known / np.sqrt(scale), tested / np.sqrt(scale), values / scale
    noise = np.random.default_rng(seed).normal(size=tested.shape)
    risks = [
        min(_risk(known, tested, noise, values, t=t, width=width) for width in SMOOTHINGS)
        for t in LEVELS
    ]
    return float(np.mean(risks))


def _moments(
    patches: np.ndarray,
) -> tuple[np.ndarray, float, tuple[np.ndarray, np.ndarray]]:
    """Mean, mean variance, and eigenvalues and eigenvectors (as columns) of the covariance."""
    if len(patches) < 2:
        raise ValueError(f"A covariance takes two patches at least, not {len(patches)}.")
    patches = patches.astype(np.float64)
    values, axes = np.linalg.eigh(np.cov(patches.T).reshape(patches.shape[1], -1))
    values = np.maximum(values, 0.0)
    if not values.sum():
        raise ValueError("Patches that are all alike have no velocity to explain.")
    return patches.mean(axis=0), float(values.mean()), (values, axes)


def _risk(
    known: np.ndarray,
    tested: np.ndarray,
    noise: np.ndarray,
    values: np.ndarray,
    *,
    t: float,
    width: float,
) -> float:
    """Mean squared error of the velocity at one level of noise, under kernels of one width."""
    noised = (1 - t) * tested + t * noise
    centers = np.sqrt(1 - width**2) * known
    spread = width**2 * values
    noised_spread = (1 - t) ** 2 * spread + t**2
    a, b = noised / np.sqrt(noised_spread), (1 - t) * centers / np.sqrt(noised_spread)
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    center = softmax(-squares / 2, axis=1) @ centers
    gain = (1 - t) * spread / noised_spread
    clean = center + gain * (noised - (1 - t) * center)
    # The velocity is (z - x) / t, so that its error is that of x, divided by t.
    return float(np.square((clean - tested) / t).mean())


def nearest_others(latents: Float[np.ndarray, "b d"]) -> Int[np.ndarray, " b"]:
    """The number of the nearest other row, by squared distance, for each row.

    Raises:
        ValueError: there are fewer than two rows.
    """
    if len(latents) < 2:
        raise ValueError(f"A neighbor takes two sets of latents at least, not {len(latents)}.")
    rows = latents.astype(np.float64)
    rows = rows - rows.mean(axis=0)  # large means would cost small distances their digits
    lengths = np.square(rows).sum(axis=1)
    squares = lengths[:, None] + lengths - 2 * rows @ rows.T
    np.fill_diagonal(squares, np.inf)
    return squares.argmin(axis=1)

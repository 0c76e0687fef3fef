"""How far apart two sets of latents are: as distributions, and as functions of each other.

NumPy in float64, on the host: the sets are samples of many clips' latents.
"""

import numpy as np
from jaxtyping import Float

KERNEL_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Widths of the kernels of `mmd`, as multiples of the median distance."""


def patches(
    latents: Float[np.ndarray, "n y x z"], *, size: int, count: int, seed: int
) -> Float[np.ndarray, "p d"]:
    """Square patches of single latent frames, d = size * size * z values each, at random places.

    Args:
        latents: of one clip.
        size: height and width of a patch.
        count: how many; of a clip with fewer places every place is taken once.
        seed: draws the places: for latents of one shape the same ones, so that two encoders'
            patches belong together.
    """
    n, y, x, z = latents.shape
    rows, columns = max(y - size + 1, 0), max(x - size + 1, 0)
    places = n * rows * columns
    drawn = np.random.default_rng(seed).choice(places, min(count, places), replace=False)
    frame, row, column = np.unravel_index(drawn, (n, max(rows, 1), max(columns, 1)))
    span = np.arange(size)
    rows, columns = row[:, None, None] + span[:, None], column[:, None, None] + span
    return latents[frame[:, None, None], rows, columns].reshape(len(drawn), size * size * z)


def mmd(a: Float[np.ndarray, "m d"], b: Float[np.ndarray, "n d"]) -> float:
    """Squared maximum mean discrepancy of two samples (Gretton et al. 2012), the unbiased estimate:
    0 on average for samples of one distribution, so that it may come out below.

    The kernel is the mean of five Gaussians exp(-|x - y|^2 / (2 w^2)) whose widths w are
    `KERNEL_WIDTHS` times the median distance between two members of both samples together. The
    largest possible value is 2.

    Raises:
        ValueError: a sample has fewer than 2 members.
    """
    m, n = len(a), len(b)
    if min(m, n) < 2:
        raise ValueError(f"MMD needs 2 members of each sample, not {m} and {n}.")
    squares = _square_distances(np.concatenate([a, b]).astype(np.float64))
    median = np.median(squares[np.triu_indices(m + n, 1)])
    if median == 0:  # at most a few members differ, and any width tells them from the others
        median = squares.max() or 1.0
    kernel = np.mean([np.exp(-squares / (2 * w**2 * median)) for w in KERNEL_WIDTHS], axis=0)
    # A member is no pair with itself.
    within_a = (kernel[:m, :m].sum() - m) / (m * (m - 1))
    within_b = (kernel[m:, m:].sum() - n) / (n * (n - 1))
    return float(within_a + within_b - 2 * kernel[:m, m:].mean())


def _square_distances(points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    points = points - points.mean(axis=0)  # products of large means would drown small distances
    lengths = np.square(points).sum(axis=1)
    squares = np.maximum(lengths[:, None] + lengths - 2 * points @ points.T, 0.0)
    np.fill_diagonal(squares, 0.0)
    return squares


def linear_probe(
    train_x: Float[np.ndarray, "m d"],
    train_y: Float[np.ndarray, "m e"],
    test_x: Float[np.ndarray, "n d"],
    test_y: Float[np.ndarray, "n e"],
    *,
    ridge: float = 1e-3,
) -> float:
    """R^2 on the test set of the best linear map (with a constant) from x to y on the training set.

    1: y is a linear function of x; 0: no better than the test set's mean, below for a worse one.
    Over all e values together: 1 - summed squared error / summed squared distance from the mean.
    NaN for a test set that doesn't vary.

    Args:
        train_x: what is known.
        train_y: what is to be told from it.
        test_x: as `train_x`, of other clips.
        test_y: as `train_y`.
        ridge: the penalty on the squared map, as a multiple of m times the mean variance of x.
    """
    train_x, train_y, test_x, test_y = (
        part.astype(np.float64) for part in (train_x, train_y, test_x, test_y)
    )
    mean_x, mean_y = train_x.mean(axis=0), train_y.mean(axis=0)
    x = train_x - mean_x
    gram = x.T @ x
    d = len(gram)
    penalty = ridge * np.trace(gram) / d
    solution, *_ = np.linalg.lstsq(gram + penalty * np.eye(d), x.T @ (train_y - mean_y), rcond=None)
    error = np.square((test_x - mean_x) @ solution + mean_y - test_y).sum()
    spread = np.square(test_y - test_y.mean(axis=0)).sum()
    return float(1 - error / spread) if spread else float("nan")

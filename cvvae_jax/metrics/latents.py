"""Latents compared: distances between two encoders' latents, and how much decoders stretch them.

The distances take samples of many clips' latents, as NumPy arrays on the host, and compute in
float64. The stretch of a decoder is a ratio of lengths, that of a change of its output to that of
the change of its input which causes it; lengths are roots of sums of squares.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.linalg import subspace_angles

KERNEL_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Widths of the kernels of `mmd`, as multiples of the median distance between members."""


def patches(
    latents: Float[np.ndarray, "n y x z"], *, size: int, count: int, seed: int
) -> Float[np.ndarray, "p d"]:
    """Square patches at random positions of a clip's latent frames, d = size * size * z values
    each.

    Args:
        latents: those of one clip.
        size: height and width of a patch.
        count: how many patches; a clip with fewer positions gives one patch for each.
        seed: determines the positions. They are the same for all latents of one shape, so patches
            of two encoders correspond.
    """
    n, y, x, z = latents.shape
    rows, columns = max(y - size + 1, 0), max(x - size + 1, 0)
    positions = n * rows * columns
    drawn = np.random.default_rng(seed).choice(positions, min(count, positions), replace=False)
    frame, row, column = np.unravel_index(drawn, (n, max(rows, 1), max(columns, 1)))
    span = np.arange(size)
    rows, columns = row[:, None, None] + span[:, None], column[:, None, None] + span
    return latents[frame[:, None, None], rows, columns].reshape(len(drawn), size * size * z)


def mmd(a: Float[np.ndarray, "m d"], b: Float[np.ndarray, "n d"]) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy of two samples (Gretton et al.
    2012), at most 2; for samples of one distribution it is 0 on average, and so may be negative.

    The kernel is the mean of five Gaussians `exp(-|x - y|^2 / (2 w^2))` whose widths w are
    `KERNEL_WIDTHS` times the median distance between any two members of both samples.

    Raises:
        ValueError: a sample has fewer than two members.
    """
    m, n = len(a), len(b)
    if min(m, n) < 2:
        raise ValueError(f"MMD needs 2 members of each sample, not {m} and {n}.")
    squares = _square_distances(np.concatenate([a, b]).astype(np.float64))
    median = np.median(squares[np.triu_indices(m + n, 1)])
    if median == 0:  # only a few members differ, and any width tells them from the others
        median = squares.max() or 1.0
    kernel = np.mean([np.exp(-squares / (2 * w**2 * median)) for w in KERNEL_WIDTHS], axis=0)
    # Pairs of a member with itself don't count.
    within_a = (kernel[:m, :m].sum() - m) / (m * (m - 1))
    within_b = (kernel[m:, m:].sum() - n) / (n * (n - 1))
    return float(within_a + within_b - 2 * kernel[:m, m:].mean())


def _square_distances(points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    points = points - points.mean(axis=0)  # large means would cost small distances their digits
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
    """R^2 on the test set of a linear map with a constant from x to y, fitted to the training set.

    It is 1 if y is a linear function of x, 0 if the map is no better than the mean of the test set,
    and negative if it is worse; NaN if the test set doesn't vary. Over all e values together: 1 -
    summed squared error / summed squared distance from the mean.

    Args:
        train_x: the inputs.
        train_y: the values to predict.
        test_x: the inputs of other clips.
        test_y: the values of those.
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


def principal_angles(
    a: Float[np.ndarray, "m d"], b: Float[np.ndarray, "n d"], *, share: float = 0.9
) -> Float[np.ndarray, " k"]:
    """The angles between the main directions of two samples, in degrees from 0 to 90, largest
    first.

    The directions are the k first eigenvectors of each one's covariance, where k is as many as hold
    this share of the variance of b. All angles are 0 where the same directions vary, whatever the
    means and the amounts; one of 90 degrees is a direction of one sample in which the other's main
    directions have no part. Directions of nearly equal variance are told apart by chance, which
    two samples of one distribution show.

    Args:
        a: a sample of vectors.
        b: the sample that the number of directions is chosen for.
        share: above 0, at most 1.

    Raises:
        ValueError: a sample has fewer than two members, or b doesn't vary.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"Angles need 2 members of each sample, not {len(a)} and {len(b)}.")
    (_, axes_a), (values, axes_b) = (np.linalg.eigh(_covariance(rows)) for rows in (a, b))
    if values[-1] <= 0:
        raise ValueError("A sample that doesn't vary has no main directions.")
    held = np.cumsum(values[::-1]) / values.sum()
    count = min(int(np.searchsorted(held, share * (1 - 1e-9))) + 1, len(values))
    angles = subspace_angles(axes_a[:, -count:], axes_b[:, -count:])
    return np.degrees(angles)


def _covariance(rows: np.ndarray) -> np.ndarray:
    return np.cov(rows.astype(np.float64).T).reshape(rows.shape[1], -1)


Decode = Callable[[Array], Array]

POINTS = 8
"""How many points of a segment Gauss-Legendre quadrature evaluates."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stretches:
    """Estimates of the singular values of a Jacobian, from a few steps of Lanczos' method, at one
    or at several points."""

    largest: Float[Array, "..."]
    """A lower bound of the largest singular value, close to it after a few steps."""
    least: Float[Array, "..."]
    """An upper bound of the smallest singular value, far above it for most large matrices."""
    typical: Float[Array, "..."]
    """The stretch along one random direction; its square is an unbiased estimate of the mean
    squared singular value."""


def path_length(decode: Decode, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, ""]:
    """The length of the curve along which the output moves while the input moves straight from a to
    b: the integral of `|J(a + s (b - a)) (b - a)|` over s in [0, 1], J being the decoder's
    Jacobian.

    It is at least the distance between the two outputs, and at most the distance between the inputs
    times the largest singular value of J on the way.
    """
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)

    def speed(s):
        _, velocity = jax.jvp(decode, (a + s * (b - a),), (b - a,))
        return _length(velocity)

    # One point at a time, since a decoder's activations take much memory.
    speeds = jax.lax.map(speed, jnp.asarray((nodes + 1) / 2, a.dtype))
    return speeds @ jnp.asarray(weights / 2, speeds.dtype)


def stretches(
    decode: Decode, point: Float[Array, "..."], *, steps: int, key: Key[Array, ""]
) -> Stretches:
    """The extreme singular values of a decoder's Jacobian J at a point.

    Lanczos' method on J^T J starts from a random direction, uses products with J and with its
    transpose, and makes every direction orthogonal to all before. It is exact after as many steps
    as the input has entries, and the largest value is never below that of as many steps of power
    iteration. In float32, values below a thousandth of the largest aren't resolved.

    Args:
        decode: any differentiable function of an array.
        point: the input at which J is taken.
        steps: the largest number of steps; every step keeps a direction with the size of the point.
        key: determines the first direction.
    """
    _, forward = jax.linearize(decode, point)
    backward = jax.linear_transpose(forward, point)
    steps = min(steps, point.size)

    def step(i, state):
        directions, diagonal, beside = state
        (image,) = backward(forward(directions[i].reshape(point.shape)))
        image = image.reshape(-1)
        diagonal = diagonal.at[i].set(directions[i] @ image)
        rest = _orthogonal(image, directions)
        length = jnp.linalg.norm(rest)
        # If J^T J leads to no new direction, go on in a random one.
        closed = length <= 1e-5 * jnp.linalg.norm(image)
        fresh = jax.random.normal(jax.random.fold_in(key, i + 1), rest.shape, rest.dtype)
        rest = jnp.where(closed, _orthogonal(fresh, directions), rest)
        following = rest / jnp.linalg.norm(rest)
        directions = directions.at[i + 1].set(following, mode="drop")
        return directions, diagonal, beside.at[i].set(jnp.where(closed, 0.0, length))

    first = jax.random.normal(key, (point.size,), point.dtype)
    directions = jnp.zeros((steps, point.size), point.dtype)
    directions = directions.at[0].set(first / jnp.linalg.norm(first))
    numbers = jnp.zeros(steps, point.dtype)
    state = jax.lax.fori_loop(0, steps, step, (directions, numbers, numbers))
    _, diagonal, beside = state
    above = jnp.diag(beside[:-1], 1)
    squares = jnp.linalg.eigvalsh(jnp.diag(diagonal) + above + above.T)
    root = jnp.sqrt(jnp.maximum(squares, 0.0))
    return Stretches(root[-1], root[0], jnp.sqrt(jnp.maximum(diagonal[0], 0.0)))


def _orthogonal(vector: Float[Array, " d"], directions: Float[Array, "k d"]) -> Float[Array, " d"]:
    """The vector without its parts along the directions, which are subtracted twice, since once
    leaves rounding errors."""
    for _ in range(2):
        parts = jnp.dot(directions, vector, precision="highest")
        vector = vector - jnp.dot(parts, directions, precision="highest")
    return vector


def _length(array: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.linalg.norm(array.reshape(-1))

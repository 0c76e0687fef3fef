"""Latents compared: the frames they stand for, distances, and how decoders stretch them.

The first latent frame stands for the first frame, every other one for a group of k frames, k being
the temporal compression. The last group may be shorter: of 1 + 4 + 2 frames, the third latent frame
stands for 2. What encoders see beyond them, repetitions of the last frame, is never measured.

NumPy in float64, on the host: the sets are samples of many clips' latents.

A stretch is a ratio of lengths, of a change of the output to the change of the input that makes it.
Lengths here are roots of sums of squares.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key


def repeat_to_frames(
    frames: Float[Array | np.ndarray, "b n h w c"], *, temporal_compression: int
) -> Float[Array | np.ndarray, "b t h w c"]:
    """Every latent frame's image for as long as the video frames it stands for, t = 1 + (n - 1) k.

    The first latent frame stands for the first frame, every other one for a group of k,
    `temporal_compression`, frames. A group's mean error is then the expectation under the mapping
    `random`, and every frame counts once, as in the error of a reconstruction.
    """
    shown = -(-np.arange(1 + (frames.shape[1] - 1) * temporal_compression) // temporal_compression)
    return frames[:, shown]


def key_frames(frames: int, *, temporal_compression: int) -> Int[np.ndarray, " n"]:
    """The last frame of every group of a video of so many frames, counted from 0: what the mapping
    `slice` takes."""
    last = np.arange(0, frames - 1 + temporal_compression, temporal_compression)
    return np.minimum(last, frames - 1)


def group_means(
    values: Float[np.ndarray, "b t ..."], *, temporal_compression: int
) -> Float[np.ndarray, "b n ..."]:
    """Means over every group's own frames, t of any number: what the mapping `mean` takes of a
    video, and of frames' scores the expectation under the mapping `random`."""
    last = key_frames(values.shape[1], temporal_compression=temporal_compression)
    first = np.concatenate([[0], last[:-1] + 1])
    sums = np.add.reduceat(values, first, axis=1)
    counts = (last - first + 1).astype(values.dtype)
    return sums / counts.reshape(-1, *(1,) * (values.ndim - 2))


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


Decode = Callable[[Array], Array]

POINTS = 8
"""Points of the Gauss-Legendre quadrature along a segment."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stretches:
    """Singular values of a Jacobian, as far as a few steps of Lanczos' method tell; of one or of
    several points."""

    largest: Float[Array, "..."]
    """No larger than the largest one, and soon near it."""
    least: Float[Array, "..."]
    """No smaller than the smallest one, and far above it for most matrices of many columns."""
    typical: Float[Array, "..."]
    """Along one random direction: squared, an unbiased estimate of the mean squared value."""


def path_length(decode: Decode, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, ""]:
    """Length of the curve that the output runs through while the input goes straight from a to b:
    the integral of |J(a + s (b - a)) (b - a)| over s in [0, 1].

    No shorter than the distance of the outputs, no longer than the distance of the inputs times the
    largest singular value of J, the decoder's Jacobian, on the way.
    """
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)

    def speed(s):
        _, velocity = jax.jvp(decode, (a + s * (b - a),), (b - a,))
        return _length(velocity)

    # One point after the other: a decoder's activations take much memory.
    speeds = jax.lax.map(speed, jnp.asarray((nodes + 1) / 2, a.dtype))
    return speeds @ jnp.asarray(weights / 2, speeds.dtype)


def stretches(
    decode: Decode, point: Float[Array, "..."], *, steps: int, key: Key[Array, ""]
) -> Stretches:
    """The extreme singular values of a decoder's Jacobian at a point.

    Lanczos' method on J^T J, by products with J and its transpose, from a random direction and with
    every direction made orthogonal to all before: after as many steps as there are inputs it is
    exact, and at any time the largest value is no smaller than so many steps of power iteration
    would give. In float32 values below a thousandth of the largest one are not resolved.

    Args:
        decode: any differentiable function of an array.
        point: where.
        steps: at most; directions that are kept, each as large as the point.
        key: draws the first direction.
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
        # Where all that J^T J makes of the start is known already, go on in another direction.
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
    """Without its part along any of the directions; twice, since once leaves rounding errors."""
    for _ in range(2):
        parts = jnp.dot(directions, vector, precision="highest")
        vector = vector - jnp.dot(parts, directions, precision="highest")
    return vector


def _length(array: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.linalg.norm(array.reshape(-1))

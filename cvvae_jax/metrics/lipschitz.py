"""How much a decoder stretches distances between latents: what links an error in pixels to one in
latents.

A stretch is a ratio of lengths, of a change of the output to the change of the input that makes it.
Lengths here are roots of sums of squares.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

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

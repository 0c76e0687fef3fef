"""Chunks of any height and width through a VAE, tile by tile, and the tiles' cross-fade.

The tiles and the fade are those of the official code: a linear ramp, first towards the tile above,
then towards the tile on the left, where both neighbors have been faded themselves.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cvvae_jax.codec.plan import Cut

Apply = Callable[[np.ndarray], Float[Array, "b t h w c"]]


def tiled(apply: Apply, array: np.ndarray, *, cut: Cut, joint: Cut) -> Float[Array, "b t h w c"]:
    """`apply` on every tile of (b, t, h, w, c), equal ones together, and the tiles joined.

    Args:
        apply: maps arrays of any batch, example by example.
        array: what is cut.
        cut: of the height and the width of its inputs.
        joint: of those of its outputs.
    """
    lines, columns = cut.spans(array.shape[2]), cut.spans(array.shape[3])
    if len(lines) == len(columns) == 1:
        return apply(array)
    inputs = {
        (i, j): array[:, :, line, column]
        for i, line in enumerate(lines)
        for j, column in enumerate(columns)
    }
    outputs = _together(apply, inputs)
    grid = [[outputs[i, j] for j in range(len(columns))] for i in range(len(lines))]
    return _joined(grid, joint=joint)


def _together(apply: Apply, inputs: dict) -> dict:
    """`apply` on all arrays, those of a shape as one batch."""
    by_shape: dict[tuple, list] = {}
    for place, array in inputs.items():
        by_shape.setdefault(array.shape, []).append(place)
    outputs = {}
    for shape, places in by_shape.items():
        result = apply(np.concatenate([inputs[place] for place in places]))
        size = shape[0]
        outputs |= {p: result[i * size : (i + 1) * size] for i, p in enumerate(places)}
    return outputs


@functools.partial(jax.jit, static_argnames="joint")
def _joined(grid: list[list[Array]], *, joint: Cut) -> Array:
    """Tiles side by side, faded into each other."""
    above, bands = None, []
    for line in grid:
        tiles = []
        for i, tile in enumerate(line):
            if above:
                tile = _fade(above[i], tile, axis=2, width=joint.overlap)
            if tiles:
                tile = _fade(tiles[-1], tile, axis=3, width=joint.overlap)
            tiles.append(tile)
        bands.append(_join(tiles, axis=3, stride=joint.stride))
        above = tiles
    return _join(bands, axis=2, stride=joint.stride)


def _fade(before: Array, tile: Array, *, axis: int, width: int) -> Array:
    """The tile, its first `width` rows or columns faded in over the last ones of its neighbor."""
    size = before.shape[axis]
    ramp_shape = [width if i == axis else 1 for i in range(tile.ndim)]
    ramp = (jnp.arange(width, dtype=tile.dtype) / max(width, 1)).reshape(ramp_shape)
    shared = jax.lax.slice_in_dim(before, size - width, size, axis=axis)
    start = jax.lax.slice_in_dim(tile, 0, width, axis=axis)
    rest = jax.lax.slice_in_dim(tile, width, tile.shape[axis], axis=axis)
    return jnp.concatenate([(1 - ramp) * shared + ramp * start, rest], axis=axis)


def _join(pieces: list[Array], *, axis: int, stride: int) -> Array:
    """Pieces side by side; of all but the last, what the next one repeats is left out."""
    if len(pieces) == 1:
        return pieces[0]
    kept = [jax.lax.slice_in_dim(piece, 0, stride, axis=axis) for piece in pieces[:-1]]
    return jnp.concatenate([*kept, pieces[-1]], axis=axis)

"""Winograd's minimal filtering: convolutions of three taps with fewer products, for CPUs.

Along one axis, two neighboring outputs of three taps take 6 products. Winograd's F(2, 3) takes only
4, of sums of inputs with sums of taps; after upsampling by nearest neighbors, where every input
occurs twice, 3 are enough. Over three axes, 8 outputs take 64 products in place of 216, or 36 after
upsampling. The products for all outputs are products of matrices, which CPUs compute at their full
rate. The loss of precision is small in float32: every sum has two or three terms, and no weight is
above 1.

The outputs of one set of products are a tile: 2 x 2 x 2 values, or 1 along an axis with one tap.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Matrix = tuple[tuple[int | float, ...], ...]
"""The rows of a matrix."""

# The size of a piece with all sums of its inputs: larger ones leave the cache and are slower.
_PIECE_BYTES = 2**25


@dataclasses.dataclass(frozen=True)
class Axis:
    """How a tile's outputs are computed along an axis: `output_transform @ ((input_transform @
    window) * (tap_transform @ taps))`."""

    step: int
    """Inputs from the window of a tile to that of the next."""
    input_transform: Matrix
    """(products, inputs of a window)."""
    tap_transform: Matrix
    """(products, taps)."""
    output_transform: Matrix
    """(outputs of a tile, products)."""

    @property
    def window(self) -> int:
        """How many inputs a tile sees."""
        return len(self.input_transform[0])

    @property
    def products(self) -> int:
        """Products of a tile."""
        return len(self.input_transform)

    @property
    def outputs(self) -> int:
        """Outputs of a tile."""
        return len(self.output_transform)


ONE_TAP = Axis(1, ((1,),), ((1,),), ((1,),))
"""One tap: an axis that isn't convolved."""
THREE_TAPS = Axis(
    2,
    ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    ((1, 1, 1, 0), (0, 1, -1, -1)),
)
"""Three taps: F(2, 3)."""
THREE_TAPS_UPSAMPLED = Axis(
    1,
    ((1, -1, 0), (0, 1, 0), (0, -1, 1)),
    ((1, 0, 0), (1, 1, 1), (0, 0, 1)),
    ((1, 1, 0), (0, 1, 1)),
)
"""Three taps after upsampling by nearest neighbors: two outputs for every input."""
Axes = tuple[Axis, Axis, Axis]


@dataclasses.dataclass(frozen=True)
class _Pieces:
    """An axis cut into pieces of equally many tiles; the last piece may overlap the one before."""

    axis: Axis
    count: int
    tiles: int

    @classmethod
    def create(cls, axis: Axis, outputs: int, most_tiles: int) -> "_Pieces":
        """So many outputs in the fewest pieces of at most `most_tiles` tiles."""
        tiles = -(-outputs // axis.outputs)
        count = -(-tiles // max(1, most_tiles))
        return cls(axis, count, -(-tiles // count))

    @property
    def outputs(self) -> int:
        """Outputs of a piece."""
        return self.tiles * self.axis.outputs

    @property
    def inputs(self) -> int:
        """Inputs that a piece sees."""
        return (self.tiles - 1) * self.axis.step + self.axis.window

    def start(self, piece: Array, outputs: int) -> tuple[Array, Array]:
        """The first input and the first output of a piece, of an axis with so many outputs."""
        first = jnp.minimum(piece * self.outputs, outputs - self.outputs)
        return first * self.axis.step // self.axis.outputs, first


@functools.partial(jax.jit, static_argnames="axes")
def convolve(
    video: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c d"], *, axes: Axes
) -> Float[Array, "b t2 h2 w2 d"]:
    """The convolution of a padded video, without strides, piece by piece.

    Args:
        video: in float32.
        kernel: with the taps of `axes`.
        axes: along time, height and width.
    """
    batch, *sizes, channels = video.shape
    outputs = [_output_size(axis, size) for axis, size in zip(axes, sizes, strict=True)]
    kernels = _transform_taps(kernel, axes)
    pieces = _pieces(axes, outputs, batch * max(kernel.shape[3:]) * kernel.dtype.itemsize)
    # An axis shorter than a piece is filled up to a whole one; the outputs are cut off at the end.
    missing = [max(0, p.inputs - size) for p, size in zip(pieces, sizes, strict=True)]
    video = jnp.pad(video, ((0, 0), *((0, n) for n in missing), (0, 0)))
    whole = [max(p.outputs, size) for p, size in zip(pieces, outputs, strict=True)]
    counts = [p.count for p in pieces]

    def add_piece(i: Array, done: Array) -> Array:
        starts = [
            p.start(piece, size)
            for p, piece, size in zip(pieces, jnp.unravel_index(i, counts), whole, strict=True)
        ]
        read, write = ((0, *start, 0) for start in zip(*starts, strict=True))
        window = lax.dynamic_slice(video, read, (batch, *(p.inputs for p in pieces), channels))
        piece = _piece(window, kernels, axes, [p.tiles for p in pieces])
        return lax.dynamic_update_slice(done, piece, write)

    empty = jnp.zeros((batch, *whole, kernel.shape[-1]), video.dtype)
    # Inside a `shard_map` the loop's result varies over devices, and jax requires that the zeros it
    # starts from are declared to vary, too.
    types = (jax.typeof(array).manual_axis_type for array in (video, kernel))
    varying = frozenset().union(*(axis_type.varying for axis_type in types))
    empty = lax.pcast(empty, tuple(varying), to="varying")
    out = lax.fori_loop(0, math.prod(counts), add_piece, empty)
    return out[:, : outputs[0], : outputs[1], : outputs[2]]


def _output_size(axis: Axis, inputs: int) -> int:
    taps = len(axis.tap_transform[0])
    return (inputs - taps + 1) * axis.outputs // axis.step


def _pieces(axes: Axes, outputs: Sequence[int], bytes_per_sum: int) -> list[_Pieces]:
    """Pieces along time, height and width: whole rows, as many as fit, of as many frames as fit."""
    products = math.prod(axis.products for axis in axes)
    columns = _Pieces.create(axes[2], outputs[2], outputs[2])
    room = _PIECE_BYTES // (bytes_per_sum * products * columns.tiles)
    rows = _Pieces.create(axes[1], outputs[1], room)
    frames = _Pieces.create(axes[0], outputs[0], room // rows.tiles if rows.count == 1 else 1)
    return [frames, rows, columns]


def _transform_taps(kernel: Array, axes: Axes) -> Array:
    """The kernel as (products along time, height and width, channels in, channels out)."""
    matrices = (jnp.asarray(axis.tap_transform, kernel.dtype) for axis in axes)
    return jnp.einsum("zt,yh,xw,thwcd->zyxcd", *matrices, kernel, precision="highest")


def _piece(window: Array, kernels: Array, axes: Axes, tiles: Sequence[int]) -> Array:
    """The outputs of a piece of so many tiles along every axis, from the inputs that it sees."""
    parts = [window]
    for i in range(2):
        parts = [x for part in parts for x in _transform_inputs(part, axes[i], i + 1, tiles[i])]
    products = []
    for (z, y), part in zip(itertools.product(*map(range, kernels.shape[:2])), parts, strict=True):
        stacked = jnp.stack(_transform_inputs(part, axes[2], 3, tiles[2]))
        products += list(jnp.einsum("x...c,xcd->x...d", stacked, kernels[z, y]))
    for i in (2, 1, 0):
        count = axes[i].products
        groups = (products[j : j + count] for j in range(0, len(products), count))
        products = [_transform_products(group, axes[i], i + 1) for group in groups]
    return products[0]


def _transform_inputs(part: Array, axis: Axis, number: int, tiles: int) -> list[Array]:
    """One array for every product along axis `number` of the array, with one value per tile."""
    last = (tiles - 1) * axis.step + 1
    positions = [
        lax.slice_in_dim(part, i, i + last, axis.step, axis=number) for i in range(axis.window)
    ]
    return [_weighted_sum(positions, weights) for weights in axis.input_transform]


def _transform_products(products: Sequence[Array], axis: Axis, number: int) -> Array:
    """The outputs of all tiles, in order, along axis `number` of the array."""
    outputs = [_weighted_sum(products, weights) for weights in axis.output_transform]
    stacked = jnp.stack(outputs, number + 1)
    return stacked.reshape(*stacked.shape[:number], -1, *stacked.shape[number + 2 :])


def _weighted_sum(arrays: Sequence[Array], weights: Sequence[int | float]) -> Array:
    """A sum with weights of -1, 0 and 1, by additions and subtractions alone."""
    terms = [a if w > 0 else -a for a, w in zip(arrays, weights, strict=True) if w]
    return functools.reduce(jnp.add, terms)

"""Convolutions of three taps with fewer products than taps, for CPUs.

Along an axis, pairs of neighboring outputs of a convolution need 6 products, but only 4 of sums of
inputs with sums of taps (Winograd's minimal filtering), or 3 where inputs stand twice, as nearest
upsampling leaves them. Over three axes that is 64 in place of 216 for 8 outputs, or 36 after
upsampling. All products of a kind are one product of matrices, which CPUs do at their full rate.
float32 stays within rounding: sums have two terms, and no weight is above 1.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Rows = tuple[tuple[int | float, ...], ...]

# Of a piece, all sums of inputs: pieces that leave the cache are slower.
_PIECE_BYTES = 2**25


@dataclasses.dataclass(frozen=True)
class Axis:
    """How the outputs of a tile come about along an axis: `outputs @ ((inputs @ window) * (taps @
    kernel))`."""

    step: int
    """Inputs between the windows of two tiles."""
    inputs: Rows
    """Products x positions of the window."""
    taps: Rows
    """Products x taps."""
    outputs: Rows
    """Outputs of a tile x products."""

    @property
    def window(self) -> int:
        """Inputs that a tile sees."""
        return len(self.inputs[0])


ALONE = Axis(1, ((1,),), ((1,),), ((1,),))
"""No taps along this axis."""
KEEPING = Axis(
    2,
    ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    ((1, 1, 1, 0), (0, 1, -1, -1)),
)
"""Three taps, as many outputs as inputs: F(2, 3)."""
DOUBLING = Axis(
    1,
    ((1, -1, 0), (0, 1, 0), (0, -1, 1)),
    ((1, 0, 0), (1, 1, 1), (0, 0, 1)),
    ((1, 1, 0), (0, 1, 1)),
)
"""Three taps on inputs that stand twice each."""
Axes = tuple[Axis, Axis, Axis]


@dataclasses.dataclass(frozen=True)
class _Pieces:
    """An axis in pieces of equally many tiles; the last one may overlap the one before."""

    axis: Axis
    count: int
    tiles: int

    @classmethod
    def of(cls, axis: Axis, outputs: int, most_tiles: int) -> "_Pieces":
        tiles = -(-outputs // len(axis.outputs))
        count = -(-tiles // max(1, most_tiles))
        return cls(axis, count, -(-tiles // count))

    @property
    def outputs(self) -> int:
        return self.tiles * len(self.axis.outputs)

    @property
    def inputs(self) -> int:
        return (self.tiles - 1) * self.axis.step + self.axis.window

    def start(self, piece: Array, outputs: int) -> tuple[Array, Array]:
        """The first input and output of a piece."""
        first = jnp.minimum(piece * self.outputs, outputs - self.outputs)
        return first * self.axis.step // len(self.axis.outputs), first


@functools.partial(jax.jit, static_argnames="axes")
def convolve(
    video: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c d"], *, axes: Axes
) -> Float[Array, "b t2 h2 w2 d"]:
    """A convolution without strides of a video that is padded already.

    Args:
        video: in float32.
        kernel: as many taps along an axis as its kind has.
        axes: kinds along time, height and width.
    """
    batch, *sizes, channels = video.shape
    outputs = [_outputs(axis, size) for axis, size in zip(axes, sizes, strict=True)]
    kernels = _sums_of_taps(kernel, axes)
    pieces = _pieces(axes, outputs, batch * max(kernel.shape[3:]) * kernel.dtype.itemsize)
    # An axis that is shorter than a piece is computed to a whole one, and cut.
    missing = [max(0, p.inputs - size) for p, size in zip(pieces, sizes, strict=True)]
    video = jnp.pad(video, ((0, 0), *((0, n) for n in missing), (0, 0)))
    whole = [max(p.outputs, size) for p, size in zip(pieces, outputs, strict=True)]
    counts = [p.count for p in pieces]

    def add_piece(i: Array, done: Array) -> Array:
        places = [
            p.start(place, size)
            for p, place, size in zip(pieces, jnp.unravel_index(i, counts), whole, strict=True)
        ]
        (read, write) = ((0, *starts, 0) for starts in zip(*places, strict=True))
        window = lax.dynamic_slice(video, read, (batch, *(p.inputs for p in pieces), channels))
        piece = _piece(window, kernels, axes, [p.tiles for p in pieces])
        return lax.dynamic_update_slice(done, piece, write)

    empty = jnp.zeros((batch, *whole, kernel.shape[-1]), video.dtype)
    # Inside a `shard_map` the loop's result differs from device to device, and its start, which is
    # the same on all, has to be declared so.
    types = (jax.typeof(array).manual_axis_type for array in (video, kernel))
    varying = frozenset().union(*(kind.varying for kind in types))
    empty = lax.pcast(empty, tuple(varying), to="varying")
    found = lax.fori_loop(0, int(np.prod(counts)), add_piece, empty)
    return found[:, : outputs[0], : outputs[1], : outputs[2]]


def _outputs(axis: Axis, inputs: int) -> int:
    taps = len(axis.taps[0])
    return (inputs - taps + 1) * len(axis.outputs) // axis.step


def _pieces(axes: Axes, outputs: Sequence[int], bytes_per_sum: int) -> list[_Pieces]:
    """Whole rows; as many of them as fit, then as many frames."""
    kinds = [len(axis.inputs) for axis in axes]
    columns = _Pieces.of(axes[2], outputs[2], outputs[2])
    room = _PIECE_BYTES // (bytes_per_sum * int(np.prod(kinds)) * columns.tiles)
    rows = _Pieces.of(axes[1], outputs[1], room)
    frames = _Pieces.of(axes[0], outputs[0], room // rows.tiles if rows.count == 1 else 1)
    return [frames, rows, columns]


def _sums_of_taps(kernel: Array, axes: Axes) -> Array:
    """(products along time, height, width, inputs, outputs)."""
    matrices = (jnp.asarray(axis.taps, kernel.dtype) for axis in axes)
    return jnp.einsum("zt,yh,xw,thwcd->zyxcd", *matrices, kernel, precision="highest")


def _piece(window: Array, kernels: Array, axes: Axes, tiles: Sequence[int]) -> Array:
    """The outputs of all tiles of a window."""
    parts = [window]
    for i in range(2):
        parts = [x for part in parts for x in _sums_of_inputs(part, axes[i], i + 1, tiles[i])]
    products = []
    for (z, y), part in zip(itertools.product(*map(range, kernels.shape[:2])), parts, strict=True):
        stacked = jnp.stack(_sums_of_inputs(part, axes[2], 3, tiles[2]))
        products += list(jnp.einsum("x...c,xcd->x...d", stacked, kernels[z, y]))
    for i in (2, 1, 0):
        kinds = len(axes[i].inputs)
        groups = (products[j : j + kinds] for j in range(0, len(products), kinds))
        products = [_outputs_of(group, axes[i], i + 1) for group in groups]
    return products[0]


def _sums_of_inputs(part: Array, axis: Axis, place: int, tiles: int) -> list[Array]:
    """One array for every product along an axis, with one value for every tile."""
    last = (tiles - 1) * axis.step + 1
    positions = [
        lax.slice_in_dim(part, i, i + last, axis.step, axis=place) for i in range(axis.window)
    ]
    return [_combined(positions, row) for row in axis.inputs]


def _outputs_of(products: Sequence[Array], axis: Axis, place: int) -> Array:
    outputs = jnp.stack([_combined(products, row) for row in axis.outputs], place + 1)
    return outputs.reshape(*outputs.shape[:place], -1, *outputs.shape[place + 2 :])


def _combined(arrays: Sequence[Array], weights: Sequence[int | float]) -> Array:
    """Only what isn't zero, so that nothing is multiplied."""
    terms = [a if w > 0 else -a for a, w in zip(arrays, weights, strict=True) if w]
    return functools.reduce(jnp.add, terms)

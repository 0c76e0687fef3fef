"""Chunks of a video through a model, one after the other, in tiles where it is cut in space.

The tiles and the fade are those of the official code: a linear ramp, first towards the tile above,
then towards the tile on the left, where both neighbors have been faded themselves.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from cvvae_jax.codec.plan import Cut, CutPlan
from cvvae_jax.codec.programs import CodecPrograms, DeviceGroups, Direction, Pieces
from cvvae_jax.errors import UserError
from cvvae_jax.models.inputs import to_uint8

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
    outputs = _apply_by_shape(apply, inputs)
    grid = [[outputs[i, j] for j in range(len(columns))] for i in range(len(lines))]
    return _join_tiles(grid, joint=joint)


def _apply_by_shape(apply: Apply, inputs: dict) -> dict:
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
def _join_tiles(grid: list[list[Array]], *, joint: Cut) -> Array:
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


Item = TypeVar("Item")


def run_chunks(
    programs: CodecPrograms, direction: Direction, chunks: Iterable[Pieces], plan: CutPlan
) -> Iterator[UInt8[np.ndarray, "b t h w c"] | Float[np.ndarray, "b t h w c"]]:
    """The model's output for each chunk, in order.

    A device works in the order in which it is given work: all that is to be done with an output is
    given to it before the next chunks, or it would wait for them.

    Args:
        programs: of the model.
        direction: what is done.
        chunks: pixels or unscaled latents; of those that follow each other with one shape,
            `plan.chunks_at_once` are taken together.
        plan: made for them.

    Raises:
        UserError: what `chunks` raise, after the output of those before.
    """

    def outputs():
        for group in _grouped(chunks, plan.chunks_at_once):
            yield _start(programs, direction, _concatenated(group), plan), len(group)

    for waited_for, count in _one_behind(outputs()):
        yield from np.split(waited_for(), count)


def _start(
    programs: CodecPrograms, direction: Direction, chunks: Pieces, plan: CutPlan
) -> Callable[[], np.ndarray]:
    """Gives chunks of a shape to the devices; what it returns waits for their output."""
    groups = DeviceGroups(plan.groups, plan.split_rows)

    def run(pieces):
        pixels = plan.program_pixels(direction)
        return programs.run(direction, pieces, groups=groups, batch=plan.batch, pixels=pixels)

    def run_tiles(pieces):
        return jnp.concatenate([part.on_device(programs.joining_device) for part in run(pieces)])

    if plan.tiles == 1:
        parts = run(chunks)
        return lambda: _concatenated([part.on_host() for part in parts])
    cuts = plan.cuts.pixel_tiles, plan.cuts.latent_tiles
    cut, joint = cuts if direction == "encode" else cuts[::-1]
    joined = tiled(run_tiles, chunks, cut=cut, joint=joint)
    if direction == "decode" and plan.pixels == "uint8":
        joined = to_uint8(joined)
    joined.copy_to_host_async()
    return lambda: np.asarray(joined)


def _one_behind(items: Iterable[Item]) -> Iterator[Item]:
    """Each item once the next one has been made, or can't be: what came before an error counts."""
    waiting: list[Item] = []
    try:
        for item in items:
            yield from waiting
            waiting = [item]
    except UserError:
        yield from waiting
        raise
    yield from waiting


def _grouped(chunks: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Chunks of a shape that follow each other, so many together at most."""
    group: list[np.ndarray] = []
    try:
        for chunk in chunks:
            if group and chunk.shape != group[0].shape:
                yield group
                group = []
            group.append(chunk)
            if len(group) == size:
                yield group
                group = []
    except UserError:  # the file ends early; what it held until then counts
        if group:
            yield group
        raise
    if group:
        yield group


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if len(parts) > 1 else parts[0]

"""Runs the chunks of a video through a model, in tiles where frames are cut.

Tiles and fades are those of the official code. A tile fades in along a linear ramp over the tile
above it, then over the tile on its left. Both neighbors have been faded before.
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


def pad_to_strides(chunk: np.ndarray, *, time: int, space: int) -> np.ndarray:
    """Repeat the last frame, row and column of (b, t, h, w, 3) until strides divide the chunk.

    Args:
        chunk: pixels.
        time: temporal compression of the model, which must divide t - 1.
        space: spatial compression of the model, which must divide h and w.
    """
    _, frames, height, width, _ = chunk.shape
    ends = (-(frames - 1) % time, -height % space, -width % space)
    if not any(ends):
        return chunk
    return np.pad(chunk, ((0, 0), *((0, end) for end in ends), (0, 0)), mode="edge")


def tiled(apply: Apply, array: np.ndarray, *, cut: Cut, joint: Cut) -> Float[Array, "b t h w c"]:
    """Apply a function to every tile of an array, and join the results.

    Args:
        apply: a function of arrays of any batch size, example by example. It gets all tiles of
            equal shape as one batch.
        array: array (b, t, h, w, c) that is cut.
        cut: cut of the height and the width of `array`.
        joint: cut of the height and the width of the result.
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
    """Apply a function to all arrays of a dictionary, those of equal shape as one batch."""
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
    """Put tiles (b, t, h, w, c) side by side and fade them into each other."""
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
    """Fade the first `width` rows or columns of a tile in over the last ones of its neighbor."""
    size = before.shape[axis]
    ramp_shape = [width if i == axis else 1 for i in range(tile.ndim)]
    ramp = (jnp.arange(width, dtype=tile.dtype) / max(width, 1)).reshape(ramp_shape)
    shared = jax.lax.slice_in_dim(before, size - width, size, axis=axis)
    start = jax.lax.slice_in_dim(tile, 0, width, axis=axis)
    rest = jax.lax.slice_in_dim(tile, width, tile.shape[axis], axis=axis)
    return jnp.concatenate([(1 - ramp) * shared + ramp * start, rest], axis=axis)


def _join(pieces: list[Array], *, axis: int, stride: int) -> Array:
    """Put pieces side by side, without the overlap at the end of all pieces but the last."""
    if len(pieces) == 1:
        return pieces[0]
    kept = [jax.lax.slice_in_dim(piece, 0, stride, axis=axis) for piece in pieces[:-1]]
    return jnp.concatenate([*kept, pieces[-1]], axis=axis)


Item = TypeVar("Item")


def run_chunks(
    programs: CodecPrograms, direction: Direction, chunks: Iterable[Pieces], plan: CutPlan
) -> Iterator[UInt8[np.ndarray, "b t h w c"] | Float[np.ndarray, "b t h w c"]]:
    """Encode or decode chunks, and yield the model's output for each chunk, in order.

    A device runs its work in the order in which it is given. So everything that is done with an
    output on the device is given to it before the next chunks; otherwise the output would have to
    wait for them.

    Args:
        programs: the compiled programs of the model.
        direction: `encode` or `decode`.
        chunks: pixels (padded) or unscaled latents. Up to `plan.chunks_at_once` consecutive chunks
            of equal shape are taken together.
        plan: the plan of the video.

    Raises:
        UserError: an error of `chunks` is raised after the output of the chunks before it.
    """

    def outputs():
        for group in _grouped(chunks, plan.chunks_at_once):
            yield _start(programs, direction, _concatenated(group), plan), len(group)

    for waited_for, count in _one_behind(outputs()):
        yield from np.split(waited_for(), count)


def _start(
    programs: CodecPrograms, direction: Direction, chunks: Pieces, plan: CutPlan
) -> Callable[[], np.ndarray]:
    """Give chunks of one shape to the devices; return a function that waits for the output."""
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
    """Yield each item after the next one has been made, or has failed to be made."""
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
    """Group consecutive chunks of equal shape, at most `size` in a group."""
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
    except UserError:  # the file is damaged; what was read before still counts
        if group:
            yield group
        raise
    if group:
        yield group


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if len(parts) > 1 else parts[0]

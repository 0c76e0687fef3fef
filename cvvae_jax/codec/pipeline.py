"""Chunks through a model one after the other: the devices get the next ones before the output of
those before is waited for."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from cvvae_jax.codec.chunks import tiled
from cvvae_jax.codec.plan import Plan
from cvvae_jax.codec.programs import Direction, Pieces, Programs, Share
from cvvae_jax.config import ConfigError
from cvvae_jax.models.pixels import to_uint8

Item = TypeVar("Item")


def through(
    programs: Programs, direction: Direction, chunks: Iterable[Pieces], plan: Plan
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
        ConfigError: what `chunks` raise, after the output of those before.
    """

    def outputs():
        for group in _grouped(chunks, plan.chunks_at_once):
            yield _output(programs, direction, _concatenated(group), plan), len(group)

    for waited_for, count in _one_behind(outputs()):
        yield from np.split(waited_for(), count)


def _output(
    programs: Programs, direction: Direction, chunks: Pieces, plan: Plan
) -> Callable[[], np.ndarray]:
    """Gives chunks of a shape to the devices; what it returns waits for their output."""
    share = Share(plan.groups, plan.split_rows)

    def run(pieces):
        pixels = plan.program_pixels(direction)
        return programs.run(direction, pieces, share=share, batch=plan.batch, pixels=pixels)

    def run_tiles(pieces):
        return jnp.concatenate([part.on_device(programs.home) for part in run(pieces)])

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
    except ConfigError:
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
    except ConfigError:  # the file ends early; what it held until then counts
        if group:
            yield group
        raise
    if group:
        yield group


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if len(parts) > 1 else parts[0]

"""Whether the borders of tiles and chunks show: steps of the error there, against elsewhere.

A difference of the *error* between two neighbors, pixels or frames, is 0 where a reconstruction is
off by the same amount on both sides, whatever the picture shows; a border that doesn't fit is a
step. Only what is left of a border after blending is seen at the positions named.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cvvae_jax.metrics.image import error

_FLOOR = (0.01 / 127.5) ** 2
"""Added on both sides of a ratio, so that no error at all gives 1: the square of a hundredth of an
8-bit level."""


def seam_ratio(
    recon: Float[Array, "b t h w 3"],
    video: Float[Array, "b t h w 3"],
    *,
    rows: Sequence[int] = (),
    columns: Sequence[int] = (),
) -> Float[Array, "b"]:
    """Mean squared steps of the error across the borders of tiles over those anywhere else.

    Float32, for values in [-1, 1], `recon` clipped to them. `rows` and `columns` are where tiles
    begin: r stands for the border between pixels r - 1 and r. Borders between rows are held against
    other rows and those between columns against other columns, since pictures are rougher in one
    direction than in the other; every border counts once. 1 means that no seam can be seen, and is
    given for equal videos too; NaN that there are no borders, or nothing but borders.

    Raises:
        ValueError: a border isn't inside of the frame.
    """
    errors = error(recon, video)
    down = jnp.square(jnp.diff(errors, axis=2)).mean(axis=(1, 3, 4))
    across = jnp.square(jnp.diff(errors, axis=3)).mean(axis=(1, 2, 4))
    return _ratio([(down, _gaps(rows, down, "row")), (across, _gaps(columns, across, "column"))])


def chunk_seam_ratio(steps: Float[Array, "b n"], *, frames: Sequence[int]) -> Float[Array, "b"]:
    """Mean squared steps of the error between frames at the borders of chunks over those anywhere
    else.

    Float32. `steps` are those of `metrics.time.difference_mse`; `frames` are where chunks begin: f
    stands for the border between frames f - 1 and f. 1 means that no seam can be seen, and is given
    for equal videos too; NaN that there are no borders, or nothing but borders.

    Raises:
        ValueError: a border isn't inside of the clip.
    """
    return _ratio([(steps, _gaps(frames, steps, "frame"))])


def _gaps(borders: Sequence[int], steps: Array, name: str) -> np.ndarray:
    """Which steps are across a border: bool (n,)."""
    chosen = np.zeros(steps.shape[1], bool)
    for border in borders:
        if not 1 <= border <= len(chosen):
            raise ValueError(f"No border is before {name} {border} of {len(chosen) + 1}.")
        chosen[border - 1] = True
    return chosen


def _ratio(directions: list[tuple[Array, np.ndarray]]) -> Array:
    """All steps at borders, over what as many steps elsewhere in the same direction would be."""
    found, expected = 0.0, 0.0
    for steps, borders in directions:
        if borders.any():
            elsewhere = steps[:, ~borders]
            missing = jnp.full(len(steps), jnp.nan)
            usual = elsewhere.mean(axis=1) if elsewhere.shape[1] else missing
            found += (steps[:, borders] + _FLOOR).sum(axis=1)
            expected += (usual + _FLOOR) * borders.sum()
    if isinstance(found, float):
        return jnp.full(len(directions[0][0]), jnp.nan)
    return found / expected

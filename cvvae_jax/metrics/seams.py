"""Whether the borders of tiles and chunks can be seen in a reconstruction.

A step is the difference of the *error* between two neighboring pixels or frames. It is 0 where a
reconstruction is off by the same amount on both sides, whatever the picture shows, and larger where
two tiles or chunks don't fit. Steps at borders are compared with steps elsewhere.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cvvae_jax.metrics.image import error

_FLOOR = (0.01 / 127.5) ** 2
"""Added to both sides of a ratio, so that it is 1 where there is no error: the square of a
hundredth of an 8-bit level."""


def seam_ratio(
    recon: Float[Array, "b t h w 3"],
    video: Float[Array, "b t h w 3"],
    *,
    row_borders: Sequence[int] = (),
    column_borders: Sequence[int] = (),
) -> Float[Array, "b"]:
    """The mean squared step across the borders of tiles, divided by that across other pixels.

    1 where no seam can be seen, also of equal videos; NaN without borders, or with nothing but
    borders. Float32. Steps between rows are compared with other steps between rows, and steps
    between columns with other steps between columns, since pictures are rougher in one direction
    than in the other; every border counts once.

    Args:
        recon: values in [-1, 1], clipped to that range.
        video: values in [-1, 1].
        row_borders: rows at which tiles begin; r is the border between rows r - 1 and r.
        column_borders: columns at which tiles begin.

    Raises:
        ValueError: a border isn't inside the frame.
    """
    errors = error(recon, video)
    down = jnp.square(jnp.diff(errors, axis=2)).mean(axis=(1, 3, 4))
    across = jnp.square(jnp.diff(errors, axis=3)).mean(axis=(1, 2, 4))
    return _ratio(
        [(down, _gaps(row_borders, down, "row")), (across, _gaps(column_borders, across, "column"))]
    )


def chunk_seam_ratio(steps: Float[Array, "b n"], *, frames: Sequence[int]) -> Float[Array, "b"]:
    """The mean squared step between frames at the borders of chunks, divided by that elsewhere.

    1 where no seam can be seen, also of equal videos; NaN without borders, or with nothing but
    borders. Float32.

    Args:
        steps: mean squared steps from `metrics.time.difference_mse`.
        frames: frames at which chunks begin; f is the border between frames f - 1 and f.

    Raises:
        ValueError: a border isn't inside the clip.
    """
    return _ratio([(steps, _gaps(frames, steps, "frame"))])


def _gaps(borders: Sequence[int], steps: Array, name: str) -> np.ndarray:
    """Which of the n steps are across a border: bool (n,)."""
    chosen = np.zeros(steps.shape[1], bool)
    for border in borders:
        if not 1 <= border <= len(chosen):
            raise ValueError(f"No border is before {name} {border} of {len(chosen) + 1}.")
        chosen[border - 1] = True
    return chosen


def _ratio(directions: list[tuple[Array, np.ndarray]]) -> Array:
    """The sum of all steps at borders, over the expected sum of as many steps elsewhere in the same
    directions."""
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

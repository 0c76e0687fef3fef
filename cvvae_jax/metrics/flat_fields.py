"""Errors of a model on clips of one color, where any structure in the output is the model's own.

NumPy in float64, on the host. Errors are of values in [-1, 1]; `metrics.time.levels_of` converts
mean squares to 8-bit levels.

Patterns that repeat are measured without bias: a figure says how much the values at one phase (the
position of a frame in its chunk, or of a pixel in its latent) have in common, beyond what the same
number of unrelated values would have by chance. Of noise it is about 0, and a change that doesn't
repeat, such as a drift, doesn't count.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from jaxtyping import Float, Int

_NOTHING = np.float64(np.nan)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where a model's own structure may lie in a video: periods and borders."""

    lattice: int
    """Height and width in pixels of the square that a latent stands for."""
    group: int
    """Frames that a latent frame after the first stands for: see `frame_groups`."""
    chunk: int
    """Frames from the beginning of a chunk to that of the next."""
    row_borders: Sequence[int] = ()
    """Rows at which tiles begin or end; r is the border between rows r - 1 and r."""
    column_borders: Sequence[int] = ()
    """Columns at which tiles begin or end."""

    @property
    def band(self) -> int:
        """Width in pixels of the band along a frame's border that is measured apart: two
        latents."""
        return 2 * self.lattice


def structure(
    recon: Float[np.ndarray, "t h w 3"], color: Float[np.ndarray, "3"], grid: Grid
) -> dict[str, np.ndarray]:
    """The error of a clip of one color, split into parts.

    `color` (3,) is the mean error of red, green and blue. All other figures are of the rest, the
    error without that mean, and are mean squares over channels and the pixels named:

    - `structure` (): the rest, over the whole clip.
    - `border` (): the rest in the band along the frame's border, from the mean of the frame's
      interior, minus the same of the interior.
    - `lattice` (): the part that repeats with every latent, over the interior. 2 x 2 checkerboards
      belong to it where the side of a latent is even.
    - `tile` (): steps across borders of tiles, minus steps beside them, at most two latents away,
      in the interior.
    - `time` (): changes from frame to frame, over the clip.
    - `first_frame` (): the difference between the first frame, which is encoded alone, and the mean
      of all others, over the frame.
    - `group_phase` (), `chunk_phase` (): the part that repeats with every latent frame, and the
      further part that repeats with every chunk, over the frames after the first.
    - `by_frame` (t,): the rest, over each frame.
    - `spectrum` (f,): the power of the interior by frequency, the larger of the frequencies along
      rows and along columns, in k / side cycles per pixel with k = 0, 1, ... The sum is the
      variance within frames, and the first entry is 0.

    NaN where there is nothing to compare: a lattice of single pixels, no tiles, or no phase that
    occurs twice.

    Args:
        recon: values in [-1, 1], clipped to that range.
        color: the clip's color.
        grid: that of the model.

    Raises:
        ValueError: the frame isn't a square whose side is a multiple of the lattice and at least
            five latents.
    """
    _, height, width, _ = recon.shape
    if height != width or height % grid.lattice or height <= 2 * grid.band:
        raise ValueError(
            f"A flat field is a square of 5 latents or more, of {grid.lattice} pixels each, not "
            f"{height} x {width} pixels."
        )
    errors = np.clip(recon, -1.0, 1.0).astype(np.float64) - color
    mean = errors.mean(axis=(0, 1, 2))
    rest = errors - mean
    found = {"color": mean, "structure": np.square(rest).mean()}
    found["by_frame"] = np.square(rest).mean(axis=(1, 2, 3))
    found |= _over_time(rest, grid) | _in_space(rest, grid)
    return {name: np.asarray(values) for name, values in found.items()}


def frequencies(side: int) -> Float[np.ndarray, " f"]:
    """The frequencies of the spectrum of an interior with so many pixels on a side, in cycles per
    pixel."""
    return np.arange(side // 2 + 1) / side


def _over_time(rest: Float[np.ndarray, "t h w 3"], grid: Grid) -> dict[str, np.float64]:
    rest = rest.reshape(len(rest), -1)
    first, others = rest[0], rest[1:]
    found = {"time": np.square(rest - rest.mean(axis=0)).mean()}
    if not len(others):
        return found | dict.fromkeys(("first_frame", "group_phase", "chunk_phase"), _NOTHING)
    group, chunk = (
        _repeating(others, np.arange(len(others)) % period).mean()
        for period in (grid.group, grid.chunk)
    )
    return found | {
        "first_frame": np.square(first - others.mean(axis=0)).mean(),
        "group_phase": _positive(group),
        "chunk_phase": _positive(chunk - np.nan_to_num(_positive(group))),
    }


def _in_space(rest: Float[np.ndarray, "t h w 3"], grid: Grid) -> dict[str, np.ndarray | np.float64]:
    side, band = rest.shape[1], grid.band
    inside = slice(band, side - band)
    rest = rest - rest[:, inside, inside].mean(axis=(1, 2), keepdims=True)
    spectrum, lattice = _spectrum(rest[:, inside, inside]), _NOTHING
    if grid.lattice > 1:
        lattice, pattern = _lattice(rest[:, inside, inside], grid.lattice)
        count = side // grid.lattice
        rest = rest - np.tile(pattern, (1, count, count, 1))
    squares = np.square(rest).mean(axis=(0, 3))
    outside = np.ones_like(squares, bool)
    outside[inside, inside] = False
    return {
        "lattice": _positive(lattice),
        "border": _positive(squares[outside].mean() - squares[~outside].mean()),
        "tile": _positive(_steps(rest[:, inside, inside], grid)),
        "spectrum": spectrum,
    }


def _lattice(
    interior: Float[np.ndarray, "t n n 3"], cell: int
) -> tuple[np.float64, Float[np.ndarray, "t c c 3"]]:
    """The power of the pattern that repeats with every cell, and the pattern itself."""
    half = cell // 2
    # The mean over a whole cell has nothing of the pattern, and all of a gradient.
    weights = np.ones(cell) if cell % 2 else np.r_[0.5, np.ones(cell - 1), 0.5]
    smooth = interior
    for axis in (1, 2):
        smooth = scipy.ndimage.convolve1d(smooth, weights / cell, axis=axis)
    detail = (interior - smooth)[:, half : half - cell, half : half - cell]
    # The cut-out begins in the middle of a cell.
    detail = np.roll(detail, (half, half), axis=(1, 2))
    count = detail.shape[1] // cell
    folded = detail.reshape(len(detail), count, cell, count, cell, 3)
    folded = folded.transpose(1, 3, 2, 4, 0, 5).reshape(count**2, cell**2, -1)
    # The median over cells ignores what only some of them have, such as the border of a tile. Of
    # noise, the variance of the median is that of the mean times pi / 2.
    pattern = np.median(folded, axis=0)
    pattern -= pattern.mean(axis=0)
    noise = np.square(folded - pattern).mean() * (np.pi / 2) / (count**2 - 1)
    power = np.square(pattern).mean() - noise
    return power, pattern.reshape(cell, cell, len(detail), 3).transpose(2, 0, 1, 3)


def _steps(interior: Float[np.ndarray, "t h w 3"], grid: Grid) -> np.float64:
    """The mean squared step across the borders of tiles, minus that beside them."""
    found = []
    for axis, borders in ((1, grid.row_borders), (2, grid.column_borders)):
        steps = np.square(np.diff(interior, axis=axis)).mean(axis=(0, 3 - axis, 3))
        places = np.array([border - 1 - grid.band for border in borders], int)
        for place in places[(places >= 0) & (places < len(steps))]:
            beside = np.arange(max(place - grid.band, 0), min(place + grid.band + 1, len(steps)))
            found.append(steps[place] - steps[np.setdiff1d(beside, places)].mean())
    return np.mean(found) if found else _NOTHING


def _repeating(
    values: Float[np.ndarray, "n d"], phases: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " d"]:
    """The part of the variance of n values that their phases explain, by an analysis of variance.

    The estimate has no bias, so it may be below 0. NaN where no phase occurs twice, or there is
    only one.
    """
    count = len(values)
    _, index, sizes = np.unique(phases, return_inverse=True, return_counts=True)
    if len(sizes) in (1, count):
        return np.full(values.shape[1], np.nan)
    order = np.argsort(index, kind="stable")
    sums = np.add.reduceat(values[order], np.cumsum(sizes) - sizes, axis=0)
    means = sums / sizes[:, None]
    between = (sizes[:, None] * np.square(means - values.mean(axis=0))).sum(axis=0)
    within = np.square(values - means[index]).sum(axis=0) / (count - len(sizes))
    return (between - (len(sizes) - 1) * within) / count


def _spectrum(interior: Float[np.ndarray, "t n n 3"]) -> Float[np.ndarray, " f"]:
    side = interior.shape[1]
    power = np.square(np.abs(np.fft.fft2(interior, axes=(1, 2)) / side**2)).mean(axis=(0, 3))
    cycles = np.abs(np.fft.fftfreq(side, 1 / side)).round().astype(int)
    larger = np.maximum(cycles[:, None], cycles)
    return np.bincount(larger.ravel(), power.ravel(), minlength=side // 2 + 1)


def _positive(value: np.float64) -> np.float64:
    """The value, or 0 if it is negative; NaN stays NaN."""
    return np.float64(np.maximum(value, 0.0))

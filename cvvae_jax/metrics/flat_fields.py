"""What a model makes of clips of one color: any structure in what comes back is the model's own.

NumPy in float64, on the host. Errors are those of values in [-1, 1]; `metrics.time.levels_of` makes
8-bit levels of mean squares.

A pattern that repeats is told from chance: it is what places of one phase share (a frame's position
in its chunk, a pixel's in its latent), beyond what as many unrelated values would. Of noise it is
about 0, and a change that doesn't repeat, such as a drift, has no part in it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from jaxtyping import Float, Int

_NOTHING = np.float64(np.nan)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where a model's own structure may lie in a video."""

    lattice: int
    """Height and width in pixels of what one latent stands for."""
    group: int
    """Frames of a latent frame, but for the first one."""
    chunk: int
    """Frames from a chunk to the next."""
    rows: Sequence[int] = ()
    """Where tiles begin or end: r stands for the border between pixels r - 1 and r."""
    columns: Sequence[int] = ()
    """As `rows`."""

    @property
    def band(self) -> int:
        """Pixels of two latents: how far in from its border a frame is measured apart."""
        return 2 * self.lattice


def structure(
    recon: Float[np.ndarray, "t h w 3"], color: Float[np.ndarray, "3"], grid: Grid
) -> dict[str, np.ndarray]:
    """The error of a clip of one color, taken apart.

    `color` (3,) is the mean error, red, green and blue. Everything else is of what is left without
    it, as mean squares over channels and:

    - `structure` (): over the whole clip.
    - `border` (): over the band along the frame's border, beside the mean of the frame's interior;
      less what the interior has itself.
    - `lattice` (): over the interior, what repeats with every latent, which includes 2 x 2
      checkerboards where the side of a latent is even.
    - `tile` (): the squared steps across borders of tiles, less those of the pixels
      beside them, two latents to either side, in the interior.
    - `time` (): over the clip, what changes from frame to frame, anywhere in the frame.
    - `first_frame` (): over the frame, of the difference between the first frame, which is encoded
      alone, and the mean of all others.
    - `group_phase` (), `chunk_phase` (): over the frames after the first, what repeats with every
      latent frame; and, beyond it, with every chunk.
    - `by_frame` (t,): over each frame.
    - `spectrum` (f,): of the interior by frequency, the larger one of that along rows and that
      along columns, in k / side cycles per pixel with k = 0, 1, ..: the sum is the variance within
      frames, and the first entry 0.

    NaN where there is nothing to compare: no lattice of single pixels, no tiles, no phase that
    occurs twice.

    Args:
        recon: in [-1, 1], clipped to it.
        color: what the clip is of.
        grid: of the model. The frame is a square of a multiple of the lattice and has five latents
            at least on a side.

    Raises:
        ValueError: the frame is another.
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
    """Of the spectrum of an interior of so many pixels, in cycles per pixel."""
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
    """The power of what repeats with every cell, and what that is."""
    half = cell // 2
    # A mean over a whole cell holds nothing of the lattice, and all of what rises evenly.
    weights = np.ones(cell) if cell % 2 else np.r_[0.5, np.ones(cell - 1), 0.5]
    smooth = interior
    for axis in (1, 2):
        smooth = scipy.ndimage.convolve1d(smooth, weights / cell, axis=axis)
    detail = (interior - smooth)[:, half : half - cell, half : half - cell]
    # The cut begins in the middle of a cell.
    detail = np.roll(detail, (half, half), axis=(1, 2))
    count = detail.shape[1] // cell
    folded = detail.reshape(len(detail), count, cell, count, cell, 3)
    folded = folded.transpose(1, 3, 2, 4, 0, 5).reshape(count**2, cell**2, -1)
    # The median of all cells has no part in what only some of them have, such as the border of a
    # tile; of noise, its variance is that of the mean times pi / 2.
    pattern = np.median(folded, axis=0)
    pattern -= pattern.mean(axis=0)
    noise = np.square(folded - pattern).mean() * (np.pi / 2) / (count**2 - 1)
    power = np.square(pattern).mean() - noise
    return power, pattern.reshape(cell, cell, len(detail), 3).transpose(2, 0, 1, 3)


def _steps(interior: Float[np.ndarray, "t h w 3"], grid: Grid) -> np.float64:
    """Mean squared steps across the borders of tiles, less those beside them."""
    found = []
    for axis, borders in ((1, grid.rows), (2, grid.columns)):
        steps = np.square(np.diff(interior, axis=axis)).mean(axis=(0, 3 - axis, 3))
        places = np.array([border - 1 - grid.band for border in borders], int)
        for place in places[(places >= 0) & (places < len(steps))]:
            beside = np.arange(max(place - grid.band, 0), min(place + grid.band + 1, len(steps)))
            found.append(steps[place] - steps[np.setdiff1d(beside, places)].mean())
    return np.mean(found) if found else _NOTHING


def _repeating(
    values: Float[np.ndarray, "n d"], phases: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " d"]:
    """The part of the variance of n values that is their phases', as in an analysis of variance:
    without bias, so that it may come out below 0; NaN where no phase occurs twice, or there is only
    one."""
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
    """NaN stays."""
    return np.float64(np.maximum(value, 0.0))

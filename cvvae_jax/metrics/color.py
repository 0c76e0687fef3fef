"""How true colors are: shifts of red, green and blue, errors of the hue, and the chroma left.

A color (r, g, b) is gray, its mean, plus a vector at right angles to the gray axis. The angle of
that vector is the hue here, with red at 0, green at 120 and blue at 240 degrees; its length is the
chroma, scaled so that pure red has that of its value. Both are linear in the color, so that a
mixture with gray keeps its hue, unlike in HSV (Hanbury, "Constructing cylindrical coordinate colour
spaces", 2008).

NumPy in float64, on the host.
"""

import colorsys
import dataclasses

import numpy as np
from jaxtyping import Float, Real, UInt8

PATCHES = 10
"""Saturated patches of the test chart."""
_COLUMNS = 5
_SATURATION, _VALUE = 0.8, 0.9
# A pixel with less chroma than this, in 8-bit levels, has hardly a hue: a level of noise turns it
# by more than 3 degrees.
_LEAST_CHROMA = 16.0


def hue_and_chroma(
    colors: Real[np.ndarray, "*shape 3"],
) -> tuple[Float[np.ndarray | np.generic, "*shape"], Float[np.ndarray | np.generic, "*shape"]]:
    """Hues in degrees, -180 to 180, and chromas in the units of the colors."""
    red, green, blue = np.moveaxis(np.asarray(colors, np.float64), -1, 0)
    along_red, across = red - (green + blue) / 2, (green - blue) * np.sqrt(3) / 2
    return np.degrees(np.arctan2(across, along_red)), np.hypot(along_red, across)


def hue_difference(
    hue: Float[np.ndarray, "*shape"], other: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray | np.generic, "*shape"]:
    """The turn from one hue to another, in degrees, from -180 to below 180."""
    return (other - hue + 180) % 360 - 180


def color_errors(
    recon: Real[np.ndarray, "t h w 3"], video: Real[np.ndarray, "t h w 3"]
) -> Float[np.ndarray, "t 5"]:
    """Of every frame, for 8-bit values: the mean errors of red, green and blue, in levels; the
    error of the hue, in degrees; and the reconstruction's chroma over the original's.

    The hue's error is the mean size of pixels' errors, weighted by the original's chroma, and hue
    and chroma are those of pixels whose original has a chroma of 16 levels or more: NaN in frames
    without such pixels.
    """
    shift = (recon.astype(np.float64) - video).mean(axis=(1, 2))
    hue, chroma = hue_and_chroma(video)
    recon_hue, recon_chroma = hue_and_chroma(recon)
    weight = np.where(chroma >= _LEAST_CHROMA, chroma, 0.0)
    total = weight.sum(axis=(1, 2))
    total = np.where(total > 0, total, np.nan)
    turned = np.abs(hue_difference(hue, recon_hue))
    found = (weight * turned, np.where(weight > 0, recon_chroma, 0.0))
    parts = [part.sum(axis=(1, 2)) / total for part in found]
    return np.concatenate([shift, np.stack(parts, axis=-1)], axis=-1)


def chart(frames: int, height: int, width: int) -> UInt8[np.ndarray, "t h w 3"]:
    """A test chart, a clip that stands still: ten saturated patches in two rows, 36 degrees of hue
    apart, from pure red on. Frames have 5 pixels of width and 2 of height at least."""
    hues = np.arange(PATCHES) / PATCHES
    colors = [colorsys.hsv_to_rgb(hue, _SATURATION, _VALUE) for hue in hues]
    colors = np.round(255 * np.array(colors)).astype(np.uint8)
    rows = np.arange(height) * (PATCHES // _COLUMNS) // height
    columns = np.arange(width) * _COLUMNS // width
    frame = colors[_COLUMNS * rows[:, None] + columns]
    return np.broadcast_to(frame, (frames, *frame.shape)).copy()


def patch_weights(height: int, width: int) -> Float[np.ndarray, "ten h w"]:
    """What a pixel counts in the mean color of each patch of the chart: only pixels of the middle
    half of a patch's height and width count, or those in its very middle where there are few."""
    rows = _middles(height, PATCHES // _COLUMNS)
    columns = _middles(width, _COLUMNS)
    return np.einsum("ih,jw->ijhw", rows, columns).reshape(PATCHES, height, width)


def _middles(size: int, parts: int) -> Float[np.ndarray, "parts size"]:
    """Weights that average over the middle half of each of equally long parts."""
    where = np.arange(size) * parts
    part = where // size
    weights = np.zeros((parts, size))
    for number in range(parts):
        own = np.flatnonzero(part == number)
        spare = len(own) // 4
        weights[number, own[spare : len(own) - spare]] = 1
    return weights / weights.sum(axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class PatchErrors:
    """Errors of the chart's patches."""

    hue: Float[np.ndarray, "ten"]
    """Turns of the hue, in degrees."""
    chroma: Float[np.ndarray, "ten"]
    """The reconstruction's chroma over the chart's."""

    @property
    def worst_hue(self) -> float:
        """The size of the largest turn, in degrees."""
        return float(np.abs(self.hue).max())

    @property
    def worst_chroma(self) -> float:
        """The ratio of chromas that is farthest from 1, as a factor."""
        ratios = np.maximum(self.chroma, 1e-6)
        return float(ratios[np.abs(np.log(ratios)).argmax()])


def patch_errors(
    recon: Real[np.ndarray, "ten 3"], original: Real[np.ndarray, "ten 3"]
) -> PatchErrors:
    """Errors of the patches' mean colors, in any units that have black at equal channels."""
    hue, chroma = hue_and_chroma(original)
    recon_hue, recon_chroma = hue_and_chroma(recon)
    return PatchErrors(hue_difference(hue, recon_hue), recon_chroma / chroma)

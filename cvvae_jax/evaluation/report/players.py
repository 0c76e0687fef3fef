"""Example clips: input, reconstruction and error side by side, in files that browsers play."""

from collections.abc import Iterator
from fractions import Fraction
from numbers import Rational
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cvvae_jax.video_io.web_video import write_webm

ERROR_LEVELS = 32
"""Error, in 8-bit levels, that the error map shows at its brightest; larger ones look the same."""
ERROR_COLORS = "inferno"
"""Matplotlib's color map of the error map: black for no error."""

_SMALLEST, _LARGEST = 192, 512  # sides of a panel in pixels: the shorter, the longer
_GAP = 4  # pixels between two panels
_GAP_LEVEL = 20


def write_example(
    path: str | Path,
    video: UInt8[np.ndarray, "t h w 3"],
    recon: UInt8[np.ndarray, "t h w 3"],
    *,
    fps: Rational | float,
) -> None:
    """Write a clip, its reconstruction and the error between them, side by side, as WebM.

    The error is the mean over channels of |recon - video|, from black (none) to the brightest color
    (ERROR_LEVELS or more of 255). Frames of small clips are enlarged by a whole number, pixel for
    pixel, and of large ones reduced by one, so that a page with many examples stays light. The file
    is compressed with losses: to look at, not to measure on.

    Args:
        path: file to write, .webm; its folder exists.
        video: frames of the input, RGB.
        recon: frames of the reconstruction, RGB.
        fps: frames per second to be played at.

    Raises:
        UserError: the suffix is another, there is no frame, or the file cannot be written.
    """
    write_webm(path, _side_by_side(video, recon), fps=Fraction(fps))


def _side_by_side(video: np.ndarray, recon: np.ndarray) -> Iterator[np.ndarray]:
    colors = error_colors()
    for frame, other in zip(video, recon, strict=True):
        error = np.abs(frame.astype(np.float32) - other).mean(-1)
        place = np.minimum(error * (255 / ERROR_LEVELS), 255).round().astype(np.uint8)
        panels = [_fitted(panel) for panel in (frame, other, colors[place])]
        gap = np.full((len(panels[0]), _GAP, 3), _GAP_LEVEL, np.uint8)
        yield np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)


def error_colors() -> UInt8[np.ndarray, "256 3"]:
    """The colors of the error map, from no error to ERROR_LEVELS."""
    import matplotlib

    return matplotlib.colormaps[ERROR_COLORS](np.arange(256), bytes=True)[:, :3]


def _fitted(panel: np.ndarray) -> np.ndarray:
    shorter, longer = sorted(panel.shape[:2])
    if longer > _LARGEST:
        return np.asarray(Image.fromarray(panel).reduce(-(-longer // _LARGEST)))
    factor = min(-(-_SMALLEST // shorter), _LARGEST // longer)
    return panel.repeat(factor, axis=0).repeat(factor, axis=1)

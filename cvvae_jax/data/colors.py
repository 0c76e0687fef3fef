"""Other colors for a clip: so that a VAE learns every hue, whatever the photos that it is shown."""

import colorsys
import math

import numpy as np

_GRAY = np.full((3, 3), 1 / 3)
# Of a color (r, g, b), the cross product with the gray axis (1, 1, 1) / sqrt(3).
_TURN = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
_SWAP = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]])


def recolored(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random half of the clips in other colors, and a third of them with plain rectangles.

    Other colors are an arbitrary turn of the hue, half of the time also with its order reversed,
    and a saturation of half to twice as much; the mean of a pixel's channels stays, except where a
    color leaves the range and is cut off. One to three rectangles have a saturated color each, and
    do not move.

    Args:
        clip: uint8 (t, h, w, 3).
        rng: where all that is random comes from.

    Returns:
        A uint8 array of the same shape; the clip itself is left as it is.
    """
    if rng.random() < 0.5:
        matrix = color_matrix(rng.uniform(0, 2 * math.pi), 2 ** rng.uniform(-1, 1))
        if rng.random() < 0.5:
            matrix = matrix @ _SWAP
        clip = _rounded(clip @ matrix.T.astype(np.float32))
    if rng.random() < 1 / 3:
        clip = clip.copy()
        for _ in range(rng.integers(1, 4)):
            _paint(clip, rng)
    return clip


def color_matrix(angle: float, saturation: float) -> np.ndarray:
    """The matrix (3, 3) that turns colors (r, g, b) around the gray axis.

    Args:
        angle: in radians; a third of a turn makes red green, and green blue.
        saturation: factor of a color's distance from gray.
    """
    turned = math.cos(angle) * (np.eye(3) - _GRAY) + math.sin(angle) * _TURN
    return _GRAY + saturation * turned


def _paint(clip: np.ndarray, rng: np.random.Generator) -> None:
    """Draws a rectangle of one saturated color, an eighth to half as large as the frame."""
    height, width = clip.shape[1:3]
    sides = [max(1, round(side * rng.uniform(0.125, 0.5))) for side in (height, width)]
    top, left = (
        int(rng.integers(side - part + 1))
        for side, part in zip((height, width), sides, strict=True)
    )
    color = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.5, 1), rng.uniform(0.3, 1))
    clip[:, top : top + sides[0], left : left + sides[1]] = _rounded(255 * np.array(color))


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)

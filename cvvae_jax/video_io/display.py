"""What a player must know to show stored pixels: pixel aspect ratio, colors, display matrix."""

import dataclasses
import math
import struct
from fractions import Fraction

import av
import numpy as np
from av.sidedata.sidedata import Type

_BT709 = 1


@dataclasses.dataclass(frozen=True)
class Display:
    """How upright pixels are shown."""

    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel over its height."""
    primaries: int = _BT709
    """The red, green and blue of the colors: ColourPrimaries of ITU-T H.273."""
    transfer: int = _BT709
    """The mapping from levels to light: TransferCharacteristics of ITU-T H.273."""


STANDARD = Display()
"""Square pixels and BT.709, as most videos have."""


# ISO/IEC 14496-12, section 6.2.2: x' = a x + c y, y' = b x + d y, stored as a b u, c d v, x y w.
_MATRIX = struct.Struct("=9i")
_NEAR = math.radians(1)


def upright(picture: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """A frame's pixels (height, width, channels), turned and mirrored as a player shows them."""
    x_swaps, x_turns, y_turns = _steps(frame)
    if x_swaps:
        picture = picture.swapaxes(0, 1)
    if x_turns:
        picture = picture[:, ::-1]
    if y_turns:
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def is_transposed(frame: av.VideoFrame) -> bool:
    """Whether the rows of a stored frame are the columns of the upright one."""
    return _steps(frame)[0]


def _steps(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Whether x and y are exchanged, and whether the x and the y axis are reversed after that.

    Matrices with other angles, with shears or with zeros are ignored: pixels would have to be
    resampled.
    """
    matrix = _matrix(frame)
    if matrix is None:
        return False, False, False
    a, b, c, d = matrix
    if _is_near_axis(a, b) and _is_near_axis(d, c):
        return False, a < 0, d < 0
    if _is_near_axis(b, a) and _is_near_axis(c, d):
        return True, c < 0, b < 0
    return False, False, False


def _matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return None
    a, b, _, c, d, *_ = _MATRIX.unpack(bytes(data)[: _MATRIX.size])
    return a, b, c, d


def _is_near_axis(along: int, across: int) -> bool:
    return along != 0 and abs(math.atan(across / along)) <= _NEAR

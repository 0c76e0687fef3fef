"""What a player has to know of a video beside its pixels and times, to show it alike."""

import dataclasses
from fractions import Fraction

_BT709 = 1


@dataclasses.dataclass(frozen=True)
class Display:
    """How upright pixels are shown."""

    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel over its height."""
    primaries: int = _BT709
    """Which red, green and blue the colors are made of: ColourPrimaries of ITU-T H.273."""
    transfer: int = _BT709
    """How levels stand for light: TransferCharacteristics of ITU-T H.273."""


STANDARD = Display()
"""Square pixels and BT.709, as most videos have."""

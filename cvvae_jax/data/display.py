"""What a player has to know of a video beside its pixels and times, to show it alike."""

import dataclasses
from fractions import Fraction

import av
from av.video.reformatter import ColorPrimaries, ColorTrc

from cvvae_jax.data.containers import exact
from cvvae_jax.data.orientation import is_transposed

_UNSPECIFIED = 2  # of the color codes of ITU-T H.273


@dataclasses.dataclass(frozen=True)
class Display:
    """How upright pixels are shown."""

    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel over its height."""
    primaries: int = int(ColorPrimaries.BT709)
    """Which red, green and blue the colors are made of: ColourPrimaries of ITU-T H.273."""
    transfer: int = int(ColorTrc.BT709)
    """How levels stand for light: TransferCharacteristics of ITU-T H.273."""

    @classmethod
    def of(cls, stream, frame: av.VideoFrame) -> "Display":
        """What a stream says, whose first decoded frame is given. Colors that it doesn't state are
        taken for those of BT.709."""
        aspect = exact(stream.sample_aspect_ratio) or Fraction(1)
        colors = {
            name: code
            for name, code in (("primaries", frame.color_primaries), ("transfer", frame.color_trc))
            if code not in (0, _UNSPECIFIED)
        }
        return cls(1 / aspect if is_transposed(frame) else aspect, **colors)


STANDARD = Display()
"""Square pixels and BT.709, as most videos have."""

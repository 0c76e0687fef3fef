"""The pixels of a video on the host."""

from typing import Literal

import numpy as np
from jaxtyping import Array, Float, UInt8

from cvvae_jax.codec.values import PixelValues, on_host
from cvvae_jax.models.inputs import VideoLike, video_array

Pixels = UInt8[Array | np.ndarray, "b t h w 3"] | Float[Array | np.ndarray, "b t h w 3"]
"""A video as uint8 in [0, 255] or as floats in [-1, 1], on the host or on a device."""

PixelType = Literal["uint8", "float32"]
"""How pixels are given, and given back."""


def checked(video: VideoLike) -> UInt8[np.ndarray, "b t h w 3"] | Float[np.ndarray, "b t h w 3"]:
    """Pixels on the host, uint8 or float32. Floats that seem to be in [0, 1] are warned of.

    Raises:
        ConfigError: they are no video, or of another type, or floats far from [-1, 1], NaN or
            infinity.
    """
    pixels, values = on_host(video_array(video)), PixelValues()
    values.look_at(pixels)
    values.warn_of_range()
    return pixels

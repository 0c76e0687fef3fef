"""What a video to be encoded may be."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from cvvae_jax.config import ConfigError

Pixels = UInt8[Array | np.ndarray, "b t h w 3"] | Float[Array | np.ndarray, "b t h w 3"]
"""A video as uint8 in [0, 255] or as floats in [-1, 1], on the host or on a device."""

PixelType = Literal["uint8", "float32"]
"""How pixels are given, and given back."""

# What was decoded, which may be encoded again, goes some way beyond 1, but not to 255.
_NO_PIXEL = 10.0


def checked(video: Any) -> UInt8[np.ndarray, "b t h w 3"] | Float[np.ndarray, "b t h w 3"]:
    """Pixels on the host, uint8 or float32.

    Raises:
        ConfigError: they are no video, or of another type.
    """
    if video.ndim != 5 or video.shape[-1] != 3 or 0 in video.shape:
        raise ConfigError(f"a video is (batch, time, height, width, 3), not {video.shape}.")
    if video.dtype == np.uint8:
        return np.asarray(video)
    if not jnp.issubdtype(video.dtype, jnp.floating):
        raise ConfigError(
            f"pixels must be uint8 in [0, 255] or floats in [-1, 1], not {video.dtype}."
        )
    pixels = np.asarray(video, np.float32)
    if (largest := float(np.abs(pixels).max())) > _NO_PIXEL:
        raise ConfigError(f"pixels that are floats must be in [-1, 1]; one is {largest:.4g}.")
    return pixels

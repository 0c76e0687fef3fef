"""Between 8-bit pixels and the values that models see."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8


def to_float(video: UInt8[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
    """8-bit pixels in [0, 255] as float32 in [-1, 1]."""
    return jnp.asarray(video, jnp.float32) / 127.5 - 1.0


@jax.jit
def to_uint8(video: Float[Array | np.ndarray, "..."]) -> UInt8[Array, "..."]:
    """Values in [-1, 1], clipped to them, as uint8 in [0, 255]."""
    return jnp.round((jnp.clip(video, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)

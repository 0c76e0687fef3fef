"""How near one frame is to another."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def psnr(recon: Float[Array, "b t h w 3"], video: Float[Array, "b t h w 3"]) -> Float[Array, "b t"]:
    """Peak signal-to-noise ratio of every frame in dB, for values in [-1, 1]; `recon` is clipped to
    them."""
    error = jnp.clip(recon, -1.0, 1.0).astype(jnp.float32) - video
    return -10.0 * jnp.log10(jnp.square(error).mean(axis=(2, 3, 4)) / 4.0 + 1e-10)

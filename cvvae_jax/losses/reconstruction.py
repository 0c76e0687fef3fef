"""Distances between videos, in the units of the paper: summed over a frame, averaged over
frames."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float


def reconstruction_loss(
    recon: Float[Array, "b t h w 3"], video: Float[Array, "b t h w 3"], *, kind: Literal["l1", "l2"]
) -> Float[Array, ""]:
    """Absolute or squared error, summed over a frame's pixels and channels, averaged over all
    frames."""
    error = recon.astype(jnp.float32) - video
    error = jnp.abs(error) if kind == "l1" else jnp.square(error)
    return error.sum(axis=(2, 3, 4)).mean()

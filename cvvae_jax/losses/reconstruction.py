"""How far reconstructions are from videos, as a negative log-likelihood with a learned scale."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from cvvae_jax import rows


def pixel_error(
    recon: Float[Array, "b t h w c"], video: Float[Array, "b t h w c"], *, kind: Literal["l1", "l2"]
) -> Float[Array, "b t"]:
    """Absolute or squared error, summed over a frame's pixels and channels, in float32."""
    error = recon.astype(jnp.float32) - video
    error = jnp.abs(error) if kind == "l1" else jnp.square(error)
    return rows.total(error.sum(axis=(2, 3, 4)))


def likelihood_loss(
    error: Float[Array, "b t"], log_scale: Float[Array, ""], *, values: int
) -> Float[Array, ""]:
    """error / exp(log_scale) + log_scale, summed over the `values` of a frame, averaged over
    frames.

    `error` is a frame's sum. With the best log-scale this is the logarithm of the mean error, so
    the scale weighs the term against all others as it gets small (`nll_loss` of the official
    `LPIPSWithDiscriminator3D`).
    """
    return (error * jnp.exp(-log_scale) + log_scale * values).mean()

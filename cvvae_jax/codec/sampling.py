"""Samples of a posterior that don't depend on how a video was cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from cvvae_jax.codec.values import require_finite
from cvvae_jax.models.gaussian import DiagonalGaussian

_OVERFLOW = "; if it computes in float16, load it with dtype bfloat16 or float32"


def latents_of(
    moments: Float[np.ndarray, "b n y x zz"], key: Key[Array, ""] | None, *, start: int = 0
) -> Float[np.ndarray, "b n y x z"]:
    """Latents of moments: the mode for no key, else a sample.

    Args:
        moments: means, then log-variances, of some latent frames.
        key: of a `sample`.
        start: number of the first of the latent frames.

    Raises:
        UserError: the latents hold NaN or infinity.
    """
    if key is None:  # without any device, which is at work on what comes next
        latents = moments[..., : moments.shape[-1] // 2]
    else:
        posterior = DiagonalGaussian.from_moments(jnp.asarray(moments))
        latents = np.asarray(sample(posterior, key, start=start))
    require_finite(latents, whose="the model's", start=start, advice=_OVERFLOW)
    return latents


def sample(
    posterior: DiagonalGaussian, key: Key[Array, ""], *, start: int = 0
) -> Float[Array, "b n y x z"]:
    """Random latents, with noise that depends on the key and on the number of the video in the
    batch and of the latent frame; `start` is the number of the first one."""
    b, n, *shape = posterior.mean.shape
    noise = _noise(key, jnp.arange(b), start + jnp.arange(n), shape=tuple(shape))
    return posterior.with_noise(noise)


@functools.partial(jax.jit, static_argnames="shape")
def _noise(
    key: Key[Array, ""],
    videos: Int[Array, " b"],
    frames: Int[Array, " n"],
    *,
    shape: tuple[int, ...],
) -> Float[Array, "b n y x z"]:
    def of_frame(video, frame):
        own = jax.random.fold_in(jax.random.fold_in(key, video), frame)
        return jax.random.normal(own, shape)

    return jax.vmap(jax.vmap(of_frame, (None, 0)), (0, None))(videos, frames)

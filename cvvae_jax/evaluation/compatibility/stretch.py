"""How far the image decoder stretches distances of latents into errors, measured on a frame."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cvvae_jax.metrics.latents import path_length, stretches
from cvvae_jax.models.image_vae import ImageVAE

STEPS = 12
"""Steps of Lanczos' method at each point."""
POINTS = (0.0, 0.5, 1.0)
"""Points on the way between the two encoders' latents at which singular values are computed."""


@jax.jit
def stretch(
    image_vae: ImageVAE,
    own: Float[Array | np.ndarray, "y x z"],
    latents: Float[Array | np.ndarray, "y x z"],
    target: Float[Array | np.ndarray, "h w 3"],
) -> dict[str, Float[Array, ""]]:
    """Measures how D_i stretches distances of latents; lengths are roots of mean squares.

    Args:
        image_vae: has the decoder D_i.
        own: E_i's latents of a frame.
        latents: E_v's.
        target: the frame itself.

    Returns:
        `distance` of the two latents. `loss` of D_i(E_v) against the frame, `image_error` of
        D_i(E_i), not clipped. `chord`: distance of the two images over the distance of the latents.
        `path`: length of the curve of images between them over that distance. `largest`, `least`
        and `typical` of `metrics.latents.Stretches` at both ends and halfway: the largest, the
        smallest and the root mean square.
    """
    own, latents, target = jnp.asarray(own), jnp.asarray(latents), jnp.asarray(target)
    images = image_vae.decode(jnp.stack([own, latents])[None])[0]

    def decode(values):
        return image_vae.decode(values[None, None])[0, 0]

    def at(share):
        point = own + share * (latents - own)
        return stretches(decode, point, steps=STEPS, key=jax.random.key(0))

    found = jax.lax.map(at, jnp.asarray(POINTS, own.dtype))
    distance = _rms(latents - own)
    path = path_length(decode, own, latents) / target.size**0.5
    # From roots of sums to roots of means of squares.
    scale = (own.size / target.size) ** 0.5
    return {
        "distance": distance,
        "loss": _rms(images[1] - target),
        "image_error": _rms(images[0] - target),
        "chord": _rms(images[1] - images[0]) / distance,
        "path": path / distance,
        "largest": scale * found.largest.max(),
        "least": scale * found.least.min(),
        "typical": scale * _rms(found.typical),
    }


def _rms(values: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.square(values).mean())

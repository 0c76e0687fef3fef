"""What links an error of the image decoder to a distance of latents, measured on a frame."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cvvae_jax.metrics.latents import path_length, stretches
from cvvae_jax.models.image_vae import ImageVAE

STEPS = 12
"""Of Lanczos' method at each point."""
POINTS = (0.0, 0.5, 1.0)
"""Where on the way from one latents to the other singular values are looked at."""


@jax.jit
def stretch(
    image_vae: ImageVAE,
    own: Float[Array | np.ndarray, "y x z"],
    latents: Float[Array | np.ndarray, "y x z"],
    target: Float[Array | np.ndarray, "h w 3"],
) -> dict[str, Float[Array, ""]]:
    """What links an error of D_i to a distance of latents; lengths are roots of mean squares.

    Args:
        image_vae: has the decoder D_i.
        own: E_i's latents of a frame.
        latents: E_v's.
        target: the frame itself.

    Returns:
        `distance` of the two latents. `loss` of D_i(E_v) against the frame, `image_error` of
        D_i(E_i), not clipped. Stretches: `chord`, distance of the two images by that of the
        latents; `path`, length of the curve of images between them by the same; `largest`, `least`
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

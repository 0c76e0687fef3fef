"""cvvae_jax: compatible video VAEs in JAX.

Everywhere, videos are arrays (batch, time, height, width, channel) with values in [-1, 1]; an image
is a video of one frame. Latents are (batch, n, y, x, z), unscaled unless said otherwise.
"""

import importlib

_HOMES = {
    "load": "cvvae_jax.loading",
    "VideoVAE": "cvvae_jax.models.video_vae",
    "ImageVAE": "cvvae_jax.models.image_vae",
    "Codec": "cvvae_jax.codec.codec",
    "Latents": "cvvae_jax.codec.values",
    "save_latents": "cvvae_jax.latents.file",
    "load_latents": "cvvae_jax.latents.file",
    "LatentsDataset": "cvvae_jax.latents.dataset",
}
__all__ = list(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str):
    """Public names on first use, so that importing the package, or asking for help, starts no
    jax."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cvvae_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return sorted([*globals(), *_HOMES])

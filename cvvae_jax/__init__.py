"""Compatible video VAEs in JAX.

Videos are arrays (batch, time, height, width, channel), as floats in [-1, 1] or as uint8 in
[0, 255]. An image is a video of one frame. Latents are arrays (batch, n, y, x, z) with n latent
frames of y x x positions and z channels; they are unscaled unless a docstring says otherwise.
"""

import importlib

_MODULES = {
    "load": "cvvae_jax.loading",
    "save": "cvvae_jax.loading",
    "show": "cvvae_jax.notebook",
    "keep_compiled_programs": "cvvae_jax.compiling",
    "VideoVAE": "cvvae_jax.models.video_vae",
    "ImageVAE": "cvvae_jax.models.image_vae",
    "Codec": "cvvae_jax.codec.codec",
    "Latents": "cvvae_jax.codec.values",
    "save_latents": "cvvae_jax.latents.file",
    "load_latents": "cvvae_jax.latents.file",
    "LatentsDataset": "cvvae_jax.latents.dataset",
}
__all__ = list(_MODULES)
__version__ = "0.1.0"


def __getattr__(name: str):
    """Import public names at their first use, so that neither importing the package nor `--help`
    imports jax."""
    if name not in _MODULES:
        raise AttributeError(f"module 'cvvae_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__():
    return sorted([*globals(), *_MODULES])

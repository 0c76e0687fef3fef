"""How well the image decoder reads a video's latents."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from cvvae_jax.metrics.image import psnr


def compat_psnr(
    recon_2d: Float[Array, "b n h w 3"],
    video: Float[Array, "b t h w 3"],
    *,
    temporal_compression: int,
) -> Float[Array, "b t"]:
    """PSNR in dB of every video frame against the image that its latent frame decodes to.

    The first latent frame stands for the first frame, every other one for a group of
    `temporal_compression` frames. The mean of a group is the expectation under the mapping
    `random`; every frame counts once, as in the PSNR of a reconstruction.
    """
    repeated = jnp.repeat(recon_2d[:, 1:], temporal_compression, axis=1)
    return psnr(jnp.concatenate([recon_2d[:, :1], repeated], axis=1), video)

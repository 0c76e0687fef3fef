"""How well the image decoder reads a video's latents."""

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from cvvae_jax.metrics.image import psnr


def compat_psnr(
    recon_2d: Float[Array, "b n h w 3"],
    video: Float[Array, "b t h w 3"],
    *,
    temporal_compression: int,
) -> Float[Array, "b n"]:
    """PSNR in dB of every latent frame decoded as an image, averaged over the video frames it
    stands for.

    The first latent frame stands for the first frame, every other one for a group of
    `temporal_compression` frames: the expectation of the PSNR under the mapping `random`.
    """
    first = psnr(recon_2d[:, :1], video[:, :1])
    if video.shape[1] == 1:
        return first
    repeated = jnp.repeat(recon_2d[:, 1:], temporal_compression, axis=1)
    rest = rearrange(psnr(repeated, video[:, 1:]), "b (n k) -> b n k", k=temporal_compression)
    return jnp.concatenate([first, rest.mean(axis=2)], axis=1)

"""What a VAE must beat: plain resampling to its latent grid and back."""

import jax
from jaxtyping import Array, Float


def bicubic_in_space(
    video: Float[Array, "b t h w c"], *, spatial_compression: int
) -> Float[Array, "b t h w c"]:
    """Every frame bicubically scaled down to the latents' height and width, and up again."""
    b, t, h, w, c = video.shape
    return _through(video, (b, t, h // spatial_compression, w // spatial_compression, c))


def bicubic_in_space_and_time(
    video: Float[Array, "b t h w c"], *, spatial_compression: int, temporal_compression: int
) -> Float[Array, "b t h w c"]:
    """Bicubically scaled down to the whole latent grid, fewer frames too, and up again."""
    b, t, h, w, c = video.shape
    n = 1 + (t - 1) // temporal_compression
    return _through(video, (b, n, h // spatial_compression, w // spatial_compression, c))


def _through(video: Array, shape: tuple[int, ...]) -> Array:
    small = jax.image.resize(video, shape, "cubic", antialias=True)
    return jax.image.resize(small, video.shape, "cubic", antialias=True)

"""What a VAE must beat: plain resampling to its latent grid and back, in space, in time or
in both."""

import jax
import jax.numpy as jnp
import numpy as np
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


def nearest_in_time(
    video: Float[Array, "b t h w c"], *, temporal_compression: int
) -> Float[Array, "b t h w c"]:
    """Frames 0, k, 2k, .. (k is `temporal_compression`) as they are, every other one as the nearest
    of them, the earlier of two."""
    last = (video.shape[1] - 1) // temporal_compression
    # A frame right between two kept ones belongs to the earlier.
    nearest = (np.arange(video.shape[1]) + (temporal_compression - 1) // 2) // temporal_compression
    return video[:, np.minimum(nearest, last) * temporal_compression]


def linear_in_time(
    video: Float[Array, "b t h w c"], *, temporal_compression: int
) -> Float[Array, "b t h w c"]:
    """Frames 0, k, 2k, .. (k is `temporal_compression`) as they are, those between two of them as
    mixtures of both; those after the last one are equal to it."""
    frames = np.arange(video.shape[1])
    last = frames[-1] // temporal_compression * temporal_compression
    before = np.minimum(frames // temporal_compression * temporal_compression, last)
    after = np.minimum(before + temporal_compression, last)
    share = ((frames - before) / temporal_compression).astype(np.float32)[None, :, None, None, None]
    earlier, later = video[:, before], video[:, after]
    return earlier + jnp.asarray(share, video.dtype) * (later - earlier)

"""Baselines that a VAE must beat: resampling to its latent grid and back, in space, in time or in
both."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def bicubic_in_space(
    video: Float[Array, "b t h w c"], *, spatial_compression: int
) -> Float[Array, "b t h w c"]:
    """The video with every frame scaled down to the height and width of the latents and up again,
    bicubically."""
    b, t, h, w, c = video.shape
    return _through(video, (b, t, h // spatial_compression, w // spatial_compression, c))


def bicubic_in_space_and_time(
    video: Float[Array, "b t h w c"], *, spatial_compression: int, temporal_compression: int
) -> Float[Array, "b t h w c"]:
    """The video scaled down to the latents' frame count, height and width and up again,
    bicubically."""
    b, t, h, w, c = video.shape
    n = 1 + (t - 1) // temporal_compression
    return _through(video, (b, n, h // spatial_compression, w // spatial_compression, c))


def _through(video: Array, shape: tuple[int, ...]) -> Array:
    small = jax.image.resize(video, shape, "cubic", antialias=True)
    return jax.image.resize(small, video.shape, "cubic", antialias=True)


def nearest_in_time(
    video: Float[Array, "b t h w c"], *, temporal_compression: int
) -> Float[Array, "b t h w c"]:
    """The video with every frame replaced by the nearest of frames 0, k, 2k, .., with k the
    temporal compression; the earlier one if two are equally near."""
    last = (video.shape[1] - 1) // temporal_compression
    nearest = (np.arange(video.shape[1]) + (temporal_compression - 1) // 2) // temporal_compression
    return video[:, np.minimum(nearest, last) * temporal_compression]


def linear_in_time(
    video: Float[Array, "b t h w c"], *, temporal_compression: int
) -> Float[Array, "b t h w c"]:
    """The video with all frames but 0, k, 2k, .. interpolated linearly between these, with k the
    temporal compression; frames after the last of these repeat it."""
    frames = np.arange(video.shape[1])
    last = frames[-1] // temporal_compression * temporal_compression
    before = np.minimum(frames // temporal_compression * temporal_compression, last)
    after = np.minimum(before + temporal_compression, last)
    share = ((frames - before) / temporal_compression).astype(np.float32)[None, :, None, None, None]
    earlier, later = video[:, before], video[:, after]
    return earlier + jnp.asarray(share, video.dtype) * (later - earlier)

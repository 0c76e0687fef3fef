"""One chunk of any height and width through a VAE, tile by tile, and the tiles' cross-fade.

The tiles and the fade are those of the official code: a linear ramp, first towards the tile above,
then towards the tile on the left, where both neighbors have been faded themselves.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from cvvae_jax.codec.plan import Cut, Plan
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.pixels import to_float

Video = UInt8[Array | np.ndarray, "b t h w 3"] | Float[Array | np.ndarray, "b t h w 3"]
"""A video as uint8 in [0, 255] or as floats in [-1, 1], on the host or on a device."""


def encode_chunk(vae: VAE, video: Video, plan: Plan) -> Float[Array, "b n y x zz"]:
    """Moments of a chunk that the strides divide: means, then unclamped log-variances, float32."""
    encode = functools.partial(_moments, vae)
    return _tiled(encode, video, cut=plan.pixel_tiles, joint=plan.latent_tiles)


def decode_chunk(
    vae: VAE, latents: Float[Array | np.ndarray, "b n y x z"], plan: Plan
) -> Float[Array, "b t h w 3"]:
    """The video of a chunk's unscaled latents: float32, about [-1, 1], not clipped."""
    decode = functools.partial(_decoded, vae)
    return _tiled(decode, latents, cut=plan.latent_tiles, joint=plan.pixel_tiles)


# The model is an argument, not a closure: one compilation serves every model of a configuration,
# and every piece of a shape. uint8 becomes float on the device: a quarter of the bytes to transfer.
@jax.jit
def _moments(vae: VAE, video):
    if video.dtype == jnp.uint8:
        video = to_float(video)
    return vae.moments(video).astype(jnp.float32)


@jax.jit
def _decoded(vae: VAE, latents):
    return vae.decode(latents).astype(jnp.float32)


def _tiled(apply: Callable, array, *, cut: Cut, joint: Cut) -> Array:
    """`apply` on every tile of (b, t, h, w, c): `cut` of its inputs, `joint` of its outputs."""
    above, bands = None, []
    for row in cut.spans(array.shape[2]):
        tiles = []
        for i, column in enumerate(cut.spans(array.shape[3])):
            tile = apply(array[:, :, row, column])
            if above:
                tile = _fade(above[i], tile, axis=2, width=joint.overlap)
            if tiles:
                tile = _fade(tiles[-1], tile, axis=3, width=joint.overlap)
            tiles.append(tile)
        bands.append(_join(tiles, axis=3, stride=joint.stride))
        above = tiles
    return _join(bands, axis=2, stride=joint.stride)


@functools.partial(jax.jit, static_argnames=("axis", "width"))
def _fade(before: Array, tile: Array, *, axis: int, width: int) -> Array:
    """The tile, its first `width` rows or columns faded in over the last ones of its neighbor."""
    size = before.shape[axis]
    ramp_shape = [width if i == axis else 1 for i in range(tile.ndim)]
    ramp = (jnp.arange(width, dtype=tile.dtype) / max(width, 1)).reshape(ramp_shape)
    shared = jax.lax.slice_in_dim(before, size - width, size, axis=axis)
    start = jax.lax.slice_in_dim(tile, 0, width, axis=axis)
    rest = jax.lax.slice_in_dim(tile, width, tile.shape[axis], axis=axis)
    return jnp.concatenate([(1 - ramp) * shared + ramp * start, rest], axis=axis)


def _join(pieces: list[Array], *, axis: int, stride: int) -> Array:
    """Pieces side by side; of all but the last, what the next one repeats is left out."""
    if len(pieces) == 1:
        return pieces[0]
    kept = [jax.lax.slice_in_dim(piece, 0, stride, axis=axis) for piece in pieces[:-1]]
    return jnp.concatenate([*kept, pieces[-1]], axis=axis)

"""Video of any length through a VAE in constant memory: frames in, frames out."""

from collections.abc import Iterable, Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8

from cvvae_jax.codec.codec import Codec
from cvvae_jax.codec.plan import Cut
from cvvae_jax.models.pixels import to_uint8


def reconstruct_frames(
    codec: Codec, frames: Iterable[np.ndarray], *, key: Key[Array, ""] | None = None
) -> Iterator[np.ndarray]:
    """Every frame, encoded and decoded: what `codec.reconstruct` gives for the whole video.

    Two chunks are in memory at most: while the device works on one, the caller gets the frames of
    the one before and the next is read.

    Args:
        codec: the model and the size of chunks and tiles.
        frames: uint8 arrays (height, width, 3), all of one size.
        key: draws a sample of the posterior; None takes its mode.

    Yields:
        uint8 arrays (height, width, 3), as many as there are frames.

    Raises:
        ConfigError: the frames are smaller than one latent.
    """
    waiting = None
    for recon in _reconstructed_chunks(codec, frames, key):
        if waiting is not None:
            yield from np.asarray(waiting)
        waiting = recon
    if waiting is not None:
        yield from np.asarray(waiting)


def _reconstructed_chunks(
    codec: Codec, frames: Iterable[np.ndarray], key: Key[Array, ""] | None
) -> Iterator[UInt8[Array, "t h w 3"]]:
    """The frames that each chunk adds; they may still be in the making on the device."""
    last = None
    for index, chunk in enumerate(_chunks(frames, codec.plan.frame_chunks)):
        added, (height, width) = len(chunk) - (index > 0), chunk.shape[1:3]
        codec.latents_shape(frames=added, height=height, width=width)
        latents = codec.encode_chunk(chunk[None], index=index, key=key)
        if last is not None:
            latents = jnp.concatenate([last, latents], axis=1)
        last = latents[:, -1:]
        recon = codec.decode_chunk(latents, index=index)
        yield to_uint8(recon[0, :added, :height, :width])


def _chunks(frames: Iterable[np.ndarray], cut: Cut) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    chunk, shared = [], 0
    for frame in frames:
        chunk.append(frame)
        if len(chunk) == cut.size:
            yield np.stack(chunk)
            chunk, shared = chunk[cut.stride :], cut.overlap
    if len(chunk) > shared:
        yield np.stack(chunk)

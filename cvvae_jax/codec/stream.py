"""Videos of any length through a VAE in constant memory: frames in, latents or frames out."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from cvvae_jax.codec.codec import Codec, Mode
from cvvae_jax.codec.plan import Cut
from cvvae_jax.codec.values import PixelType, frame_arrays, latent_frames, latents_from_moments
from cvvae_jax.errors import UserError
from cvvae_jax.models.inputs import FramesLike, KeyLike, PartsLike, one_key

Item = TypeVar("Item")

_END = object()


def encode_frames(
    codec: Codec, frames: FramesLike, *, key: KeyLike | None = None
) -> Iterator[Float[np.ndarray, "n y x z"]]:
    """The unscaled latents of frames: what `codec.encode` gives for the whole video, in parts.

    A few chunks are in memory at once: those that the caller works on, those that the devices work
    on, and as many that a thread reads meanwhile.

    Args:
        codec: the model, and how videos go through it.
        frames: arrays (height, width, 3), uint8 in [0, 255] or floats in [-1, 1], or Pillow images;
            all of one size and type.
        key: draws a sample of the posterior; None takes its mode.

    Yields:
        What each chunk adds, float32.

    Raises:
        UserError: the frames are smaller than one latent; after the latents of those before, a
            frame that is none, or the model's latents, as in `Codec.encode`.
    """
    key = one_key(key)
    first, chunks = _peek(_pieces(frame_arrays(frames), codec.chunks))
    if first is not None:
        yield from _latents(codec, first, chunks, key=key)


def _latents(
    codec: Codec, first: np.ndarray, chunks: Iterator[np.ndarray], *, key: Key[Array, ""] | None
) -> Iterator[np.ndarray]:
    """Of all chunks, the first one among them; one that is shorter than others would be is the
    whole video."""
    count, height, width, _ = first.shape
    plan = codec.plan("encode", frames=count, height=height, width=width, pixels=first.dtype.name)
    read = _read_ahead(chunks, count=plan.chunks_at_once)
    start = 0
    for moments in codec.moments((chunk[None] for chunk in read), plan):
        yield latents_from_moments(moments, key, start=start)[0]
        start += moments.shape[1]


def decode_frames(
    codec: Codec,
    latents: PartsLike,
    *,
    height: int,
    width: int,
    mode: Mode = "video",
    pixels: PixelType = "uint8",
) -> Iterator[UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]]:
    """The frames of unscaled latents, with those that filled up the last latent frame.

    Args:
        codec: the model, and how videos go through it.
        latents: in parts (n, y, x, z) of any length, floats of any width.
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        mode: `image` decodes each latent frame alone, to one frame.
        pixels: of the frames; float32 ones are about [-1, 1], not clipped.

    Yields:
        Frames, while the devices work on those after them.

    Raises:
        UserError: there is no such mode or such pixels; after the frames before, latents that
            are no numbers, or that frames of this size don't have.
    """
    cut = codec.latent_chunks(mode)
    shape = codec.latents_shape(frames=1, height=height, width=width)[1:]
    first, chunks = _peek(_pieces(latent_frames(latents, shape=shape), cut))
    if first is None:
        return
    frames = 1 + (len(first) - 1) * codec.vae.temporal_compression
    plan = codec.plan("decode", frames=frames, height=height, width=width, pixels=pixels)
    batches = (chunk[None] for chunk in chunks)
    for video in codec.videos(batches, plan, overlap=cut.overlap):
        yield from video[0, :, :height, :width]


def reconstruct_frames(
    codec: Codec, frames: FramesLike, *, key: KeyLike | None = None
) -> Iterator[UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]]:
    """Every frame, encoded and decoded: what `codec.reconstruct` gives for the whole video.

    Args:
        codec: the model, and how videos go through it.
        frames: as of `encode_frames`.
        key: draws a sample of the posterior; None takes its mode.

    Yields:
        As many frames as there are, of their type, floats clipped to [-1, 1]; in as little memory
        as `encode_frames`.

    Raises:
        UserError: as of `encode_frames`.
    """
    key, counted = one_key(key), CountedItems(frame_arrays(frames))
    first, chunks = _peek(_pieces(counted, codec.chunks))
    if first is None:
        return
    (count, height, width, _), pixels = first.shape, first.dtype.name
    for direction in ("encode", "decode"):  # while nothing else is in the devices' memory
        codec.plan(direction, frames=count, height=height, width=width, pixels=pixels)
    latents = _latents(codec, first, chunks, key=key)
    recons = decode_frames(codec, latents, height=height, width=width, pixels=pixels)
    for i, recon in enumerate(recons):
        # What follows the last frame fills up its chunk, which all frames were read for.
        if i < counted.count:
            yield recon if pixels == "uint8" else np.clip(recon, -1.0, 1.0)


class CountedItems:
    """Items, and how many of them have been taken."""

    def __init__(self, items: Iterable):
        """Wrap items that are taken once."""
        self._items, self.count = items, 0

    def __iter__(self):
        for item in self._items:
            self.count += 1
            yield item


def _pieces(items: Iterable[np.ndarray], cut: Cut) -> Iterator[np.ndarray]:
    """Arrays in stacks, as an axis is cut."""
    piece, shared = [], 0
    try:
        for item in items:
            piece.append(item)
            if len(piece) == cut.size:
                yield np.stack(piece)
                piece, shared = piece[cut.stride :], cut.overlap
    except UserError:  # the file ends early; what it held until then counts
        if len(piece) > shared:
            yield np.stack(piece)
        raise
    if len(piece) > shared:
        yield np.stack(piece)


def _peek(items: Iterable[Item]) -> tuple[Item | None, Iterator[Item]]:
    """The first item, None where there is none, and all of them."""
    iterator = iter(items)
    for first in iterator:
        return first, itertools.chain([first], iterator)
    return None, iterator


def _read_ahead(items: Iterator[Item], *, count: int) -> Iterator[Item]:
    """The items, so many of which a thread makes while those before are worked on."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = deque(thread.submit(next, items, _END) for _ in range(count))
        try:
            while (item := coming.popleft().result()) is not _END:
                coming.append(thread.submit(next, items, _END))
                yield item
        finally:
            for future in coming:
                future.cancel()

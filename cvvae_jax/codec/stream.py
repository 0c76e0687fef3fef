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
    """Encode a video frame by frame: the parts together are the latents of `Codec.encode`.

    Memory holds a few chunks: those that the caller works on, those that the devices work on, and
    as many again, which a thread reads meanwhile.

    Args:
        codec: the model, and how videos go through it.
        frames: arrays (height, width, 3), uint8 in [0, 255] or floats in [-1, 1], or Pillow images;
            all of one size and type.
        key: random key that a sample of the posterior is drawn with; None gives the mode.

    Yields:
        The unscaled latents that a chunk adds, float32 (n, y, x, z).

    Raises:
        UserError: the frames are smaller than one latent; a frame is no frame or differs in size
            or type; or the latents hold NaN or infinity. Latents of earlier chunks are yielded
            first.
    """
    key = one_key(key)
    first, chunks = _peek(_pieces(frame_arrays(frames), codec.chunk_cut))
    if first is not None:
        yield from _latents(codec, first, chunks, key=key)


def _latents(
    codec: Codec, first: np.ndarray, chunks: Iterator[np.ndarray], *, key: Key[Array, ""] | None
) -> Iterator[np.ndarray]:
    """Encode chunks; `first` is the first of `chunks`, whose length decides the plan: where it is
    shorter than a full chunk, it is the whole video."""
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
    """Decode a video part by part.

    Latents don't say how many frames the video has: the last latent frame gives as many as any
    other, and the caller leaves out those beyond the end.

    Args:
        codec: the model, and how videos go through it.
        latents: unscaled latents in parts (n, y, x, z) of any length, floats of any width.
        height: height of the frames in pixels.
        width: width of the frames in pixels.
        mode: `image` decodes each latent frame alone, to one frame.
        pixels: type of the frames: uint8 in [0, 255], or float32 of about [-1, 1], not clipped.

    Yields:
        Frames, while the devices work on the following ones.

    Raises:
        UserError: there is no such mode or pixel type; or latents hold NaN or infinity, or do not
            belong to frames of this size. Frames of earlier latents are yielded first.
    """
    cut = codec.latent_chunk_cut(mode)
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
    """Encode and decode a video frame by frame: the result is that of `Codec.reconstruct`.

    Memory holds as few chunks as for `encode_frames`.

    Args:
        codec: the model, and how videos go through it.
        frames: frames as `encode_frames` takes them.
        key: random key that a sample of the posterior is drawn with; None gives the mode.

    Yields:
        One frame per input frame, of the same size and type; floats are clipped to [-1, 1].

    Raises:
        UserError: for the reasons that `encode_frames` has.
    """
    key, counted = one_key(key), CountedItems(frame_arrays(frames))
    first, chunks = _peek(_pieces(counted, codec.chunk_cut))
    if first is None:
        return
    (count, height, width, _), pixels = first.shape, first.dtype.name
    for direction in ("encode", "decode"):  # planned while the devices' memory holds nothing else
        codec.plan(direction, frames=count, height=height, width=width, pixels=pixels)
    latents = _latents(codec, first, chunks, key=key)
    recons = decode_frames(codec, latents, height=height, width=width, pixels=pixels)
    for i, recon in enumerate(recons):
        # The last chunk was padded. Its frames come out after all input frames have been read, so
        # that their number is known by then.
        if i < counted.count:
            yield recon if pixels == "uint8" else np.clip(recon, -1.0, 1.0)


class CountedItems:
    """An iterable that counts the items that have been taken from it."""

    def __init__(self, items: Iterable):
        self._items = items
        self.count = 0
        """Number of items taken so far."""

    def __iter__(self):
        for item in self._items:
            self.count += 1
            yield item


def _pieces(items: Iterable[np.ndarray], cut: Cut) -> Iterator[np.ndarray]:
    """Stack arrays into the pieces of a cut."""
    piece, shared = [], 0
    try:
        for item in items:
            piece.append(item)
            if len(piece) == cut.size:
                yield np.stack(piece)
                piece, shared = piece[cut.stride :], cut.overlap
    except UserError:  # the file is damaged; what was read before still counts
        if len(piece) > shared:
            yield np.stack(piece)
        raise
    if len(piece) > shared:
        yield np.stack(piece)


def _peek(items: Iterable[Item]) -> tuple[Item | None, Iterator[Item]]:
    """Return the first item (None where there is none), and an iterator of all items."""
    iterator = iter(items)
    for first in iterator:
        return first, itertools.chain([first], iterator)
    return None, iterator


def _read_ahead(items: Iterator[Item], *, count: int) -> Iterator[Item]:
    """Yield the items, while a thread makes the following `count` items."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = deque(thread.submit(next, items, _END) for _ in range(count))
        try:
            while (item := coming.popleft().result()) is not _END:
                coming.append(thread.submit(next, items, _END))
                yield item
        finally:
            for future in coming:
                future.cancel()

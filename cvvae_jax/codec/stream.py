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
from cvvae_jax.codec.sampling import latents_of
from cvvae_jax.config import ConfigError

Item = TypeVar("Item")

_END = object()


def encode_frames(
    codec: Codec, frames: Iterable[np.ndarray], *, key: Key[Array, ""] | None = None
) -> Iterator[Float[np.ndarray, "n y x z"]]:
    """The unscaled latents of frames: what `codec.encode` gives for the whole video, in parts.

    A few chunks are in memory at once: those that the caller works on, those that the devices work
    on, and as many that a thread reads meanwhile.

    Args:
        codec: the model, and how videos go through it.
        frames: uint8 arrays (height, width, 3), all of one size.
        key: draws a sample of the posterior; None takes its mode.

    Yields:
        What each chunk adds, float32.

    Raises:
        ConfigError: the frames are smaller than one latent.
    """
    first, chunks = _first(_pieces(frames, codec.chunks))
    if first is not None:
        yield from _latents(codec, first, chunks, key=key)


def _latents(
    codec: Codec, first: np.ndarray, chunks: Iterator[np.ndarray], *, key: Key[Array, ""] | None
) -> Iterator[np.ndarray]:
    """Of all chunks, the first one among them; one that is shorter than others would be is the
    whole video."""
    count, height, width, _ = first.shape
    plan = codec.plan("encode", frames=count, height=height, width=width)
    read = _read_ahead(chunks, count=plan.chunks_at_once)
    start = 0
    for moments in codec.moments((chunk[None] for chunk in read), plan):
        yield latents_of(moments, key, start=start)[0]
        start += moments.shape[1]


def decode_frames(
    codec: Codec,
    latents: Iterable[Float[np.ndarray, "n y x z"]],
    *,
    height: int,
    width: int,
    mode: Mode = "video",
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The frames of unscaled latents, with those that filled up the last latent frame.

    Args:
        codec: the model, and how videos go through it.
        latents: in parts of any length.
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        mode: `image` decodes each latent frame alone, to one frame.

    Yields:
        Frames, while the devices work on those after them.

    Raises:
        ConfigError: frames of this size have other latents.
    """
    cut = codec.latent_chunks(mode)
    first, chunks = _first(_pieces(itertools.chain.from_iterable(latents), cut))
    if first is None:
        return
    expected = codec.latents_shape(frames=1, height=height, width=width)[1:]
    if first.shape[1:] != expected:
        raise ConfigError(
            f"latents (y, x, z) of frames of {width} x {height} are {expected}, "
            f"not {first.shape[1:]}."
        )
    frames = 1 + (len(first) - 1) * codec.vae.temporal_compression
    plan = codec.plan("decode", frames=frames, height=height, width=width)
    batches = (chunk[None] for chunk in chunks)
    for video in codec.videos(batches, plan, overlap=cut.overlap):
        yield from video[0, :, :height, :width]


def reconstruct_frames(
    codec: Codec, frames: Iterable[np.ndarray], *, key: Key[Array, ""] | None = None
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Every frame, encoded and decoded: what `codec.reconstruct` gives for the whole video.

    Args:
        codec: the model, and how videos go through it.
        frames: uint8 arrays (height, width, 3), all of one size.
        key: draws a sample of the posterior; None takes its mode.

    Yields:
        As many frames as there are, in as little memory as `encode_frames`.

    Raises:
        ConfigError: the frames are smaller than one latent.
    """
    counted = Counted(frames)
    first, chunks = _first(_pieces(counted, codec.chunks))
    if first is None:
        return
    count, height, width, _ = first.shape
    for direction in ("encode", "decode"):  # while nothing else is in the devices' memory
        codec.plan(direction, frames=count, height=height, width=width)
    latents = _latents(codec, first, chunks, key=key)
    recons = decode_frames(codec, latents, height=height, width=width)
    for i, recon in enumerate(recons):
        # What follows the last frame fills up its chunk, which all frames were read for.
        if i < counted.count:
            yield recon


class Counted:
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
    except ConfigError:  # the file ends early; what it held until then counts
        if len(piece) > shared:
            yield np.stack(piece)
        raise
    if len(piece) > shared:
        yield np.stack(piece)


def _first(items: Iterable[Item]) -> tuple[Item | None, Iterator[Item]]:
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

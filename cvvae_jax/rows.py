"""Frames whose rows are split over devices: what a computation needs of the other devices' rows.

XLA's partitioner returns wrong gradients of convolution kernels where it splits frames itself, so
that it never does. Instead, a whole training step runs inside of `jax.shard_map` over the mesh axis
`space` (see `sharding.split_rows`), where a video is a device's own rows of it. Whatever looks
beyond a row or averages over rows goes through the functions here; outside of such a `shard_map`
they leave arrays as they are, so that networks and losses need no word about devices.

Frames whose rows the devices don't divide are filled up at the bottom. Inside of `filled_up` the
functions here take those rows for what they are: beyond the frame. That is for forward passes of
the networks next to the latents; losses know nothing of it.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

AXIS = "space"
"""The mesh axis that rows are split over."""


_filled: contextvars.ContextVar[tuple[int, int]] = contextvars.ContextVar("filled", default=(1, 1))


@contextlib.contextmanager
def filled_up(rows: int, total: int) -> Iterator[None]:
    """While a computation is traced, frames are their first `rows` of every `total` rows; of those
    at twice the resolution, the first 2 * `rows` of 2 * `total`."""
    before = _filled.set((rows, total))
    try:
        yield
    finally:
        _filled.reset(before)


def are_split() -> bool:
    """Whether arrays hold a device's own rows."""
    return AXIS in jax.sharding.get_abstract_mesh().manual_axes


def devices() -> int:
    """How many devices share a frame."""
    return lax.axis_size(AXIS) if are_split() else 1


def total(own: Float[Array, "..."]) -> Float[Array, "..."]:
    """A sum over the whole frame, of the sums over every device's own rows."""
    return lax.psum(own, AXIS) if are_split() else own


def average(own: Float[Array, "..."]) -> Float[Array, "..."]:
    """A mean over the whole frame, of the means over every device's own rows."""
    return lax.pmean(own, AXIS) if are_split() else own


def mean(video: Float[Array, "b t h w c"]) -> Float[Array, "b c"]:
    """The mean over time and the whole frame."""
    if not _partly_beyond():
        return average(video.mean((1, 2, 3)))
    inside, count = _inside(video), _height(video) * video.shape[1] * video.shape[3]
    return total(jnp.where(inside, video, 0).sum((1, 2, 3))) / count


def gather(own: Float[Array, "b t l c"]) -> Float[Array, "b t m c"]:
    """The positions of whole frames, row by row, on every device."""
    if not are_split():
        return own
    positions = lax.all_gather(own, AXIS, axis=2, tiled=True)
    rows, total = _filled.get()
    return positions[:, :, : positions.shape[2] * rows // total]


def own(video: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w c"]:
    """A device's own rows of a video that all devices have."""
    if not are_split():
        return video
    height = video.shape[2] // lax.axis_size(AXIS)
    return lax.dynamic_slice_in_dim(video, lax.axis_index(AXIS) * height, height, axis=2)


def with_neighbors(
    video: Float[Array, "b t h w c"], pads: tuple[int, int], *, mode: Literal["zero", "edge"]
) -> Float[Array, "b t h2 w c"]:
    """A device's own rows between the neighbors' nearest ones: so many before and after.

    The first and the last device see black beyond the frame, or its outermost row again. Where
    frames are filled up, so do devices whose rows end beyond it; with `edge`, one row beyond is
    right, which is all that the networks look at.
    """
    before, after = pads
    if _partly_beyond():
        video = _without_beyond(video, mode=mode)
    last = lax.axis_size(AXIS) - 1
    parts = [video]
    if before:
        down = [(i, i + 1) for i in range(last)]
        above = lax.ppermute(video[:, :, -before:], AXIS, down)
        parts.insert(0, _beyond(above, video[:, :, :1], at=0, mode=mode))
    if after:
        up = [(i + 1, i) for i in range(last)]
        below = lax.ppermute(video[:, :, :after], AXIS, up)
        parts.append(_beyond(below, video[:, :, -1:], at=last, mode=mode))
    return jnp.concatenate(parts, axis=2)


def _beyond(received, outermost, *, at, mode):
    """What lies beyond a device's rows: a device without a neighbor there has received zeros."""
    if mode == "zero":
        return received
    repeated = jnp.repeat(outermost, received.shape[2], axis=2)
    return jnp.where(lax.axis_index(AXIS) == at, repeated, received)


def _partly_beyond() -> bool:
    rows, total = _filled.get()
    return are_split() and rows < total


def _height(video) -> int:
    """Of whole frames, at the resolution of a device's own rows."""
    rows, total = _filled.get()
    return video.shape[2] * lax.axis_size(AXIS) * rows // total


def _inside(video):
    """Which of a device's own rows are of the frame, (h, 1, 1)."""
    first = lax.axis_index(AXIS) * video.shape[2]
    return (first + jnp.arange(video.shape[2]) < _height(video))[:, None, None]


def _without_beyond(video, *, mode):
    """Black in place of rows beyond the frame, or the row before."""
    if mode == "zero":
        return jnp.where(_inside(video), video, 0)
    down = [(i, i + 1) for i in range(lax.axis_size(AXIS) - 1)]
    above = lax.ppermute(video[:, :, -1:], AXIS, down)
    shifted = jnp.concatenate([above, video[:, :, :-1]], axis=2)
    return jnp.where(_inside(video), video, shifted)

"""Frames whose rows are split over devices: what a computation needs of the other devices' rows.

XLA's partitioner returns wrong gradients of convolution kernels where it splits frames itself, so
that it never does. Instead, a whole training step runs inside of `jax.shard_map` over the mesh axis
`space` (see `sharding.split_rows`), where a video is a device's own rows of it. Whatever looks
beyond a row or averages over rows goes through the functions here; outside of such a `shard_map`
they leave arrays as they are, so that networks and losses need no word about devices.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

AXIS = "space"
"""The mesh axis that rows are split over."""


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


def gather(own: Float[Array, "b t l c"]) -> Float[Array, "b t m c"]:
    """The positions of whole frames, row by row, on every device."""
    return lax.all_gather(own, AXIS, axis=2, tiled=True) if are_split() else own


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

    The first and the last device see black beyond the frame, or its outermost row again.
    """
    before, after = pads
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

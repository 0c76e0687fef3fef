"""Frames whose rows are split over devices: neighbors' rows, and sums and means of whole frames.

XLA's partitioner returns wrong gradients of convolution kernels where it splits frames itself, so
it is never asked to. Instead, a whole computation (a training step, see `sharding.split_rows`, or
a call of a codec) runs inside `jax.shard_map` over the mesh axis `space`, where a video (b, t, h,
w, c) holds only the device's own h rows of every frame.

Inside such a `shard_map` the functions here exchange rows or numbers between devices; outside of
one frames are whole, and nothing is exchanged. So code that calls them is written once. Everything
that looks beyond a row or that averages over rows must call them, and these places do:

- `models.padding`: a convolution's border rows are the neighbors' rows.
- `models.blocks`: the means of `GroupNorm`, and the keys and values of spatial attention.
- `models.conv_forms`: Winograd's algorithm is only used on whole frames.
- `losses`, `metrics.image.mse` and `training`: sums and means over a frame, and random numbers.

Where the number of devices doesn't divide the rows of a frame, the codec adds rows at the bottom
(see `filled_up`), which count as lying beyond the frame. Only the functions that models call know
of them; the sums and means of losses don't.
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
    """A context in which computations are traced for frames that were filled up: of `total` rows,
    only the first `rows` belong to the frame. At twice that resolution these are 2 `rows` of 2
    `total`, and so on."""
    before = _filled.set((rows, total))
    try:
        yield
    finally:
        _filled.reset(before)


def are_split() -> bool:
    """Whether videos hold only a device's own rows, as they do inside the `shard_map`."""
    return AXIS in jax.sharding.get_abstract_mesh().manual_axes


def device_count() -> int:
    """How many devices share a frame."""
    return lax.axis_size(AXIS) if are_split() else 1


def sum_over_devices(own: Float[Array, "..."]) -> Float[Array, "..."]:
    """The sum over a whole frame, from the sum over the device's own rows."""
    return lax.psum(own, AXIS) if are_split() else own


def mean_over_devices(own: Float[Array, "..."]) -> Float[Array, "..."]:
    """The mean over a whole frame, from the mean over the device's own rows."""
    return lax.pmean(own, AXIS) if are_split() else own


def mean_over_video(video: Float[Array, "b t h w c"]) -> Float[Array, "b c"]:
    """The mean of every channel over time and the whole frame."""
    if not _partly_beyond():
        return mean_over_devices(video.mean((1, 2, 3)))
    inside, count = _inside(video), _height(video) * video.shape[1] * video.shape[3]
    return sum_over_devices(jnp.where(inside, video, 0).sum((1, 2, 3))) / count


def gather_positions(own: Float[Array, "b t l c"]) -> Float[Array, "b t m c"]:
    """The positions of the whole frame, row by row, from the l positions of the device's own
    rows."""
    if not are_split():
        return own
    positions = lax.all_gather(own, AXIS, axis=2, tiled=True)
    rows, total = _filled.get()
    return positions[:, :, : positions.shape[2] * rows // total]


def own_rows(video: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w c"]:
    """The device's own rows of a video of whole frames, which every device holds."""
    if not are_split():
        return video
    height = video.shape[2] // lax.axis_size(AXIS)
    return lax.dynamic_slice_in_dim(video, lax.axis_index(AXIS) * height, height, axis=2)


def with_neighbor_rows(
    video: Float[Array, "b t h w c"], pads: tuple[int, int], *, mode: Literal["zero", "edge"]
) -> Float[Array, "b t h2 w c"]:
    """The device's own rows, with rows of its two neighbors added above and below.

    The first and the last device, which have only one neighbor, add zeros (`zero`) or repeat the
    frame's outermost row (`edge`). Devices that hold rows beyond a filled-up frame do the same at
    the frame's last row; with `edge` only the first row beyond it is right, which suffices since
    the models pad one row.

    Args:
        video: the device's own rows.
        pads: how many rows are added above and below.
        mode: what lies beyond the frame.
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
    """The rows received from a neighbor; on device `at`, which has no neighbor there and received
    zeros, what lies beyond the frame."""
    if mode == "zero":
        return received
    repeated = jnp.repeat(outermost, received.shape[2], axis=2)
    return jnp.where(lax.axis_index(AXIS) == at, repeated, received)


def _partly_beyond() -> bool:
    """Whether some devices hold rows beyond a filled-up frame."""
    rows, total = _filled.get()
    return are_split() and rows < total


def _height(video) -> int:
    """Height of the whole frame in rows, at the resolution of the device's own rows."""
    rows, total = _filled.get()
    return video.shape[2] * lax.axis_size(AXIS) * rows // total


def _inside(video):
    """Which of the device's own rows lie inside the frame, bool (h, 1, 1)."""
    first = lax.axis_index(AXIS) * video.shape[2]
    return (first + jnp.arange(video.shape[2]) < _height(video))[:, None, None]


def _without_beyond(video, *, mode):
    """The video with its rows beyond the frame replaced by zeros, or by the row above each."""
    if mode == "zero":
        return jnp.where(_inside(video), video, 0)
    down = [(i, i + 1) for i in range(lax.axis_size(AXIS) - 1)]
    above = lax.ppermute(video[:, :, -1:], AXIS, down)
    shifted = jnp.concatenate([above, video[:, :, :-1]], axis=2)
    return jnp.where(_inside(video), video, shifted)

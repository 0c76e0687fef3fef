"""Padding: what convolutions and pools see beyond the border of a video. All of it is done here.

Who chooses the padding:

- Convolutions of the VAEs and of the discriminator: their `conv.ConvKind` says how many frames are
  added and whether zeros or repeated frames and pixels; `conv.Conv` and `Downsample` say how many
  pixels.
- Convolutions and pools with any windows, of the networks behind metrics: `window_pads`.

Zeros along height and width are left to the convolution itself, which is faster: `pad_space` says
how many. Where the rows of frames are split over devices, a device's border rows are its
neighbors' rows: `split_frames.with_neighbor_rows` adds them, and the padding at the frame's own
border.
"""

from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cvvae_jax import split_frames

PadMode = Literal["zero", "edge"]
"""Zeros, or the outermost frame, row or column again."""

SpatialPads = tuple[tuple[int, int], tuple[int, int]]
"""Rows added above and below, columns added left and right."""

NO_PADS: SpatialPads = ((0, 0), (0, 0))

WindowPadding = Literal["same"] | tuple[int, ...]
"""Padding along every axis of a window: this many on both sides, or TensorFlow's `same`, with which
an output has the input's size divided by the stride and rounded up."""


def pad_time(
    video: Float[Array, "b t h w c"], pads: tuple[int, int], *, mode: PadMode
) -> Float[Array, "b t2 h w c"]:
    """The video with `pads` frames added before and after."""
    if mode == "edge":
        return pad_edges(video, pads, axis=1)
    return jnp.pad(video, ((0, 0), pads, (0, 0), (0, 0), (0, 0)))


def pad_space(
    video: Float[Array, "b t h w c"], pads: tuple[int, int], *, mode: PadMode
) -> tuple[Float[Array, "b t h2 w2 c"], SpatialPads]:
    """Padding of `pads` pixels before and after along height and along width.

    Returns:
        the video with all padding that isn't zeros, and the rows and columns of zeros that the
        convolution is still to add.
    """
    row_pads = column_pads = pads
    if split_frames.are_split():
        video, row_pads = split_frames.with_neighbor_rows(video, pads, mode=mode), (0, 0)
    if mode == "edge":
        video = pad_edges(pad_edges(video, row_pads, axis=2), column_pads, axis=3)
        row_pads = column_pads = (0, 0)
    return video, (row_pads, column_pads)


def pad_zeros(video: Float[Array, "b t h w c"], pads: SpatialPads) -> Float[Array, "b t h2 w2 c"]:
    """The video with rows and columns of zeros added, for convolutions that can't add them."""
    return jnp.pad(video, ((0, 0), (0, 0), *pads, (0, 0)))


def pad_edges(
    video: Float[Array, "..."], pads: tuple[int, int], *, axis: int
) -> Float[Array, "..."]:
    """The array with its first and last slice along an axis repeated, `pads` times each.

    `jnp.pad` isn't used since it also slices the axes that it doesn't pad: the gradient of slices
    of a batch that is split over devices would send whole activations between devices.
    """
    before, after = pads
    first, last = (lax.slice_in_dim(video, i, i + 1, axis=axis) for i in (0, video.shape[axis] - 1))
    return jnp.concatenate([first] * before + [video] + [last] * after, axis=axis)


def window_pads(
    sizes: tuple[int, ...],
    *,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: WindowPadding,
) -> tuple[tuple[int, int], ...]:
    """How many frames, rows and columns are added before and after for windows of any size.

    Args:
        sizes: of the video, along time, height and width.
        window: (time, height, width), or (height, width), for which no frames are added.
        strides: along the axes of the window.
        padding: along the axes of the window.

    Raises:
        ValueError: the rows of the video are split over devices, which these windows can't handle.
    """
    if split_frames.are_split():
        raise ValueError("windows of any size can't be used on frames that are split over devices.")
    if padding != "same":
        pads = [(pad, pad) for pad in padding]
    else:
        pads = []
        for size, taps, stride in zip(sizes[-len(window) :], window, strides, strict=True):
            missing = max((-(-size // stride) - 1) * stride + taps - size, 0)
            pads.append((missing // 2, missing - missing // 2))
    return ((0, 0),) * (3 - len(window)) + tuple(pads)

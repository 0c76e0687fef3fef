"""Which frames a video's latents stand for, and how they are held against the video.

The first latent frame stands for the first frame, every other one for a group of k frames, k being
the temporal compression. The last group may be shorter: of 1 + 4 + 2 frames, the third latent frame
stands for 2. What encoders see beyond them, repetitions of the last frame, is never measured.
"""

import numpy as np
from jaxtyping import Array, Float, Int


def in_step(
    frames: Float[Array | np.ndarray, "b n h w c"], *, temporal_compression: int
) -> Float[Array | np.ndarray, "b t h w c"]:
    """Every latent frame's image for as long as the video frames it stands for, t = 1 + (n - 1) k.

    The first latent frame stands for the first frame, every other one for a group of k,
    `temporal_compression`, frames. A group's mean error is then the expectation under the mapping
    `random`, and every frame counts once, as in the error of a reconstruction.
    """
    shown = -(-np.arange(1 + (frames.shape[1] - 1) * temporal_compression) // temporal_compression)
    return frames[:, shown]


def key_frames(frames: int, *, temporal_compression: int) -> Int[np.ndarray, " n"]:
    """The last frame of every group of a video of so many frames, counted from 0: what the mapping
    `slice` takes."""
    last = np.arange(0, frames - 1 + temporal_compression, temporal_compression)
    return np.minimum(last, frames - 1)


def group_means(
    values: Float[np.ndarray, "b t ..."], *, temporal_compression: int
) -> Float[np.ndarray, "b n ..."]:
    """Means over every group's own frames, t of any number: what the mapping `mean` takes of a
    video, and of frames' scores the expectation under the mapping `random`."""
    last = key_frames(values.shape[1], temporal_compression=temporal_compression)
    first = np.concatenate([[0], last[:-1] + 1])
    sums = np.add.reduceat(values, first, axis=1)
    counts = (last - first + 1).astype(values.dtype)
    return sums / counts.reshape(-1, *(1,) * (values.ndim - 2))

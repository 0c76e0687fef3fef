"""Which video frames a latent frame stands for, and arrays brought from one to the other.

Counted from 0 and with a temporal compression of k, the latent frame 0 stands for frame 0 alone,
and the latent frame i >= 1 for a group of k frames, (i - 1) k + 1 to i k. Frame f therefore belongs
to the latent frame ceil(f / k), and n latent frames stand for 1 + (n - 1) k frames: with k = 4, for
frame 0, frames 1 to 4, frames 5 to 8, and so on.

Of a video with another number of frames the last group is shorter: of 7 frames, it has frames 5 and
6. Encoders see the last frame repeated there, which isn't counted here.

The paper's mappings psi, which choose one frame of every group, are `losses.compat_targets`.
"""

import numpy as np
from jaxtyping import Array, Float, Int


def repeat_to_frames(
    images: Float[Array | np.ndarray, "b n h w c"], *, temporal_compression: int
) -> Float[Array | np.ndarray, "b t h w c"]:
    """Repeats the image of every latent frame for all frames that it stands for, t = 1 + (n - 1) k.

    Compared with the video, a group's mean error is then the expected error under the mapping
    `random`, and every frame counts once.
    """
    frames = np.arange(1 + (images.shape[1] - 1) * temporal_compression)
    return images[:, -(-frames // temporal_compression)]


def key_frames(frames: int, *, temporal_compression: int) -> Int[np.ndarray, " n"]:
    """The number of the last frame of every group, of a video of so many frames: those that the
    mapping `slice` chooses."""
    last = np.arange(0, frames - 1 + temporal_compression, temporal_compression)
    return np.minimum(last, frames - 1)


def group_means(
    values: Float[np.ndarray, "b t ..."], *, temporal_compression: int
) -> Float[np.ndarray, "b n ..."]:
    """Means over the frames of every group, of any t frames.

    Of a video they are what the mapping `mean` compares with; of scores of frames they are the
    expected scores under the mapping `random`.
    """
    last = key_frames(values.shape[1], temporal_compression=temporal_compression)
    first = np.concatenate([[0], last[:-1] + 1])
    sums = np.add.reduceat(values, first, axis=1)
    counts = (last - first + 1).astype(values.dtype)
    return sums / counts.reshape(-1, *(1,) * (values.ndim - 2))

"""How the image decoder's view of a video's latents is held against the video."""

import numpy as np
from jaxtyping import Array, Float


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

"""Compatibility: video latents must mean frames to the frozen image VAE, and the other way round.

This is the paper's latent regularization. Decoder-based: || psi(x) - D_i(E_v(x)) ||, the image
decoder shows the frames. Encoder-based: || x - D_v(E_i(psi(x))) ||, the video decoder shows the
video from image latents.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from cvvae_jax.config import Mapping


def draw_offsets(
    key: Key[Array, ""], *, groups: int, temporal_compression: int
) -> Int[Array, " groups"]:
    """Which frame the `random` mapping takes of every group: one draw, shared by the batch."""
    return jax.random.randint(key, (groups,), 0, temporal_compression)


def compat_targets(
    video: Float[Array, "b t h w c"],
    *,
    mapping: Mapping,
    temporal_compression: int,
    offsets: Int[Array, " groups"],
) -> Float[Array, "b n h w c"]:
    """The paper's psi: one frame for every latent frame of a video of 1 + kn frames.

    The first latent frame stands for the first frame. For every group of k frames after it: `slice`
    takes its last frame, `mean` its average, `random` the one at its entry of `offsets`, in [0, k).
    `first` is the first frame alone: compared with the first latent frame only.
    """
    first, rest = video[:, :1], video[:, 1:]
    if mapping == "first" or video.shape[1] == 1:
        return first
    groups = rearrange(rest, "b (n k) h w c -> b n k h w c", k=temporal_compression)
    match mapping:
        case "slice":
            chosen = groups[:, :, -1]
        case "mean":
            chosen = groups.mean(axis=2)
        case "random":
            chosen = jnp.take_along_axis(groups, offsets.reshape(1, -1, 1, 1, 1, 1), axis=2)[
                :, :, 0
            ]
    return jnp.concatenate([first, chosen], axis=1)

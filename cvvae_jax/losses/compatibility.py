"""Compatibility: latents of a video must mean frames to the frozen image decoder.

This is the paper's latent regularization, in its decoder-based form: || psi(x) - D_i(E_v(x)) ||.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key

from cvvae_jax.config import Mapping


def compat_targets(
    video: Float[Array, "b t h w c"],
    *,
    mapping: Mapping,
    temporal_compression: int,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "b n h w c"]:
    """The paper's psi: one frame for every latent frame of a video of 1 + kn frames.

    The first latent frame stands for the first frame. For every group of k frames after it: `slice`
    takes its last frame, `mean` its average, `random` one of them (one draw a group, shared by the
    batch, from `key`). `first` is the first frame alone: compared with the first latent frame only.
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
            draws = jax.random.randint(key, (groups.shape[1],), 0, temporal_compression)
            chosen = jnp.take_along_axis(groups, draws.reshape(1, -1, 1, 1, 1, 1), axis=2)[:, :, 0]
    return jnp.concatenate([first, chosen], axis=1)

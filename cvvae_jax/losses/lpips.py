"""LPIPS: how different two frames look, as a distance of a network's features."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from cvvae_jax import rows
from cvvae_jax.config import Remat
from cvvae_jax.models.alexnet import AlexLPIPS
from cvvae_jax.models.remat import run
from cvvae_jax.models.vgg import LPIPS


def lpips(
    network: LPIPS | AlexLPIPS,
    video: Float[Array, "b t h w 3"],
    other: Float[Array, "b t h w 3"],
    *,
    remat: Remat = "none",
) -> Float[Array, "b t"]:
    """LPIPS of every frame of two videos in [-1, 1]; 0 for equal ones, without an upper limit.

    Features of every layer are brought to length 1 over channels; their squared difference is
    weighted by the layer's head, averaged over the frame and summed over layers (Zhang et al. 2018,
    "The Unreasonable Effectiveness of Deep Features"). No dropout, in training neither. Values of
    VGG16 (`LPIPS`) and of AlexNet (`AlexLPIPS`) can't be compared with each other.
    Unless `remat` is `none`, only the features are kept for a backward pass.
    """
    features = (network.features(x, remat=remat) for x in (video, other))
    levels = zip(network.heads, *features, strict=True)
    return sum(run(_distance, *level, remat=remat) for level in levels)


def _distance(head, a, b):
    return rows.average(head(jnp.square(_normalized(a) - _normalized(b))).mean(axis=(2, 3, 4)))


def _normalized(features: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
    """Length 1 over channels, in float32.

    Both epsilons are the official code's; the first keeps the gradient finite where all features
    are zero.
    """
    features = features.astype(jnp.float32)
    squares = jnp.square(features).sum(axis=-1, keepdims=True)
    return features / (jnp.sqrt(squares + 1e-10) + 1e-10)

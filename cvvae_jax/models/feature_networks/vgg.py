"""LPIPS with VGG16: its convolutions, and a linear head for each of five features."""

import itertools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax.config import LPIPSConfig, Remat
from cvvae_jax.models.blocks import pool, style_dtypes
from cvvae_jax.models.conv import Conv, ConvKind
from cvvae_jax.models.remat import run

LEVELS = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
"""Channels of the convolutions at every resolution."""
SPATIAL_COMPRESSION = 2 ** (len(LEVELS) - 1)
"""Pixels of height and width that one position of the last feature stands for."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and standard deviation of ImageNet's pixels, for values in [-1, 1]."""


class LPIPS(nnx.Module):
    """VGG16 up to relu5_3 and the five heads of LPIPS: `LPIPS(net="vgg")` in the official code.

    `levels` holds the convolutions of each resolution, `heads` a linear layer without bias for
    each. Built from an `LPIPSConfig`, with random convolutions and heads that average channels.
    """

    def __init__(self, config: LPIPSConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtypes = style_dtypes(config)
        self.levels = nnx.List()
        inputs = 3
        for widths in LEVELS:
            pairs = itertools.pairwise((inputs, *widths))
            self.levels.append(
                nnx.List([Conv(i, o, kind=ConvKind("none"), **dtypes, rngs=rngs) for i, o in pairs])
            )
            inputs = widths[-1]
        widths = [level[-1] for level in LEVELS]
        heads = average_heads(widths, param_dtype=dtypes["param_dtype"], rngs=rngs)
        self.heads = nnx.List(heads)

    def features(
        self, video: Float[Array, "b t h w 3"], *, remat: Remat = "none"
    ) -> list[Float[Array, "b t _ _ _"]]:
        """relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 of every frame of a video in [-1, 1]; each
        has half the height and width of the one before. Unless `remat` is `none`, only these
        features are kept for a backward pass."""
        hidden, features = scaled(video), []
        for i, level in enumerate(self.levels):
            hidden = run(_pooled_level if i else _level, level, hidden, remat=remat)
            features.append(hidden)
        return features


def scaled(video: Float[Array, "b t h w 3"]) -> Float[Array, "b t h w 3"]:
    """A video in [-1, 1], normalized as the networks of LPIPS take it."""
    shift, scale = (jnp.asarray(x, jnp.float32).reshape(1, 1, 1, 1, 3) for x in (SHIFT, SCALE))
    return (video - shift) / scale


def average_heads(
    widths: Iterable[int], *, param_dtype: jnp.dtype, rngs: nnx.Rngs
) -> list[nnx.Linear]:
    """Heads that average channels, one for every feature with so many channels."""
    options = {"use_bias": False, "param_dtype": param_dtype, "rngs": rngs}
    average = nnx.initializers.constant
    return [nnx.Linear(n, 1, kernel_init=average(1 / n), **options) for n in widths]


def _pooled_level(level, video):
    return _level(level, pool(video, window=(1, 2, 2), reduction="max"))


def _level(level, video):
    for conv in level:
        video = jax.nn.relu(conv(video))
    return video

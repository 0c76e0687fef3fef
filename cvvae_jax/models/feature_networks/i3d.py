"""Inception-I3D, the network of the Frechet video distance (Carreira and Zisserman 2017, "Quo
Vadis, Action Recognition?"), as in piergiaj/pytorch-i3d."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax.config import I3DConfig
from cvvae_jax.models.blocks import style_dtypes
from cvvae_jax.models.feature_networks.layers import (
    NormedConv,
    WindowConv,
    max_of_windows,
    mean_of_windows,
)

CLASSES = 400
SIZE = 224
"""Height and width in pixels of the frames that it was trained on; the output has one position."""
SHORTEST, SMALLEST = 9, 193
"""The fewest frames, and the smallest height and width in pixels, that the last average's window
fits into."""
_LAST_WINDOW = (2, 7, 7)


class Widths(NamedTuple):
    """Output channels of the convolutions of a `Mixed` block, by their official names."""

    b0: int
    b1a: int
    b1b: int
    b2a: int
    b2b: int
    b3b: int

    @property
    def outputs(self) -> int:
        """Output channels of the block."""
        return self.b0 + self.b1b + self.b2b + self.b3b


STEM = (64, 64, 192)
LEVELS = (
    {"3b": Widths(64, 96, 128, 16, 32, 32), "3c": Widths(128, 128, 192, 32, 96, 64)},
    {
        "4b": Widths(192, 96, 208, 16, 48, 64),
        "4c": Widths(160, 112, 224, 24, 64, 64),
        "4d": Widths(128, 128, 256, 24, 64, 64),
        "4e": Widths(112, 144, 288, 32, 64, 64),
        "4f": Widths(256, 160, 320, 32, 128, 128),
    },
    {"5b": Widths(256, 160, 320, 32, 128, 128), "5c": Widths(384, 192, 384, 48, 128, 128)},
)
"""The `Mixed` blocks of every level, by their official names. Height and width are halved before
every level, time before all but the first."""


class Mixed(nnx.Module):
    """Four branches whose channels are concatenated: `InceptionModule` in the official code."""

    def __init__(
        self,
        inputs: int,
        widths: Widths,
        *,
        dtype: jnp.dtype,
        param_dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        point, cube = ({"window": (n,) * 3, "padding": "same", **options} for n in (1, 3))
        self.b0 = NormedConv(inputs, widths.b0, **point)
        self.b1a = NormedConv(inputs, widths.b1a, **point)
        self.b1b = NormedConv(widths.b1a, widths.b1b, **cube)
        self.b2a = NormedConv(inputs, widths.b2a, **point)
        self.b2b = NormedConv(widths.b2a, widths.b2b, **cube)
        self.b3b = NormedConv(inputs, widths.b3b, **point)

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w d"]:
        largest = max_of_windows(video, window=(3, 3, 3), strides=(1, 1, 1), padding="same")
        branches = (
            self.b0(video),
            self.b1b(self.b1a(video)),
            self.b2b(self.b2a(video)),
            self.b3b(largest),
        )
        return jnp.concatenate(branches, axis=-1)


class I3D(nnx.Module):
    """Inception-I3D for RGB videos with the classes of Kinetics-400: `InceptionI3d` in the official
    code, in evaluation mode.

    `stem`, then `levels` of `Mixed` blocks, then `classifier`. Built from an `I3DConfig`, with
    random weights.
    """

    def __init__(self, config: I3DConfig, *, rngs: nnx.Rngs):
        self.config = config
        options = {**style_dtypes(config), "rngs": rngs}
        first, second, third = STEM
        same = {"padding": "same", **options}
        self.stem = nnx.List(
            [
                NormedConv(3, first, window=(7, 7, 7), strides=(2, 2, 2), **same),
                NormedConv(first, second, window=(1, 1, 1), **same),
                NormedConv(second, third, window=(3, 3, 3), **same),
            ]
        )
        self.levels, inputs = nnx.List(), third
        for blocks in LEVELS:
            level = nnx.List()
            for widths in blocks.values():
                level.append(Mixed(inputs, widths, **options))
                inputs = widths.outputs
            self.levels.append(level)
        # The Frechet distance is computed from these logits, so they are float32 in any case.
        last = options | {"dtype": jnp.dtype("float32")}
        self.classifier = WindowConv(inputs, CLASSES, window=(1, 1, 1), padding="same", **last)

    def features(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b t2 h2 w2 c"]:
        """The input of the classifier for a video in [-1, 1].

        (b, t / 8 - 1, h / 32 - 6, w / 32 - 6, 1024) with quotients rounded up: the last layers have
        a position for every 8 frames and 32 x 32 pixels, of which windows of 2 x 7 x 7 are
        averaged.

        Raises:
            ValueError: the video has fewer than 9 frames, or fewer than 193 pixels of height or
                width.
        """
        _, frames, height, width, _ = video.shape
        if frames < SHORTEST or min(height, width) < SMALLEST:
            raise ValueError(
                f"I3D takes {SHORTEST} frames of {SMALLEST} x {SMALLEST} pixels and more, not "
                f"{frames} of {height} x {width}."
            )
        first, second, third = self.stem
        hidden = third(second(_halved_in_space(first(video))))
        hidden = _halved_in_space(hidden)
        for i, level in enumerate(self.levels):
            if i:
                # Windows of two frames in the last level, of three before it.
                taps = 2 if i == len(self.levels) - 1 else 3
                hidden = max_of_windows(
                    hidden, window=(taps,) * 3, strides=(2, 2, 2), padding="same"
                )
            for block in level:
                hidden = block(hidden)
        return mean_of_windows(hidden, window=_LAST_WINDOW, padding=(0, 0, 0))

    def logits(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b t2 k"]:
        """Logits of the 400 classes for every step in time of `features`, (b, t / 8 - 1, 400),
        averaged over positions where frames are larger than 224 x 224 pixels.

        Raises:
            ValueError: as for `features`.
        """
        return self.classifier(self.features(video)).mean(axis=(2, 3))


def _halved_in_space(video):
    return max_of_windows(video, window=(1, 3, 3), strides=(1, 2, 2), padding="same")

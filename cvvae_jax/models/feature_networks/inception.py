"""InceptionV3 as used by FID, the Frechet distance of frames (Szegedy et al. 2015, "Rethinking the
Inception Architecture"; Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule")."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax.config import InceptionConfig
from cvvae_jax.models.blocks import style_dtypes
from cvvae_jax.models.feature_networks.layers import NormedConv, max_of_windows, mean_of_windows

CLASSES = 1008
SIZE = 299
"""Height and width in pixels to which FID resizes frames."""
SMALLEST = 75
"""The smallest height and width in pixels for which the last layer has a position."""


class Layer(NamedTuple):
    """A convolution of a block: its official name, output channels, window and stride. With stride
    1 it is padded to keep height and width; with stride 2 it isn't padded."""

    name: str
    outputs: int
    window: tuple[int, int] = (1, 1)
    stride: int = 1


Step = Layer | tuple[Layer, Layer] | Literal["mean", "max", "halved"]
"""A step of a branch: a layer, two layers whose channels are concatenated, or a pool over 3 x 3
pixels, `mean`, `max`, or `halved`, which is a maximum with stride 2."""
Block = tuple[tuple[Step, ...], ...]
"""Branches whose channels are concatenated, each a sequence of steps."""

_DOUBLE_3X3 = (
    Layer("branch3x3dbl_1", 64),
    Layer("branch3x3dbl_2", 96, (3, 3)),
)
_STEM_CHANNELS = (32, 32, 64, 80, 192)


def _five(pooled: int) -> Block:
    return (
        (Layer("branch1x1", 64),),
        (Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5))),
        (*_DOUBLE_3X3, Layer("branch3x3dbl_3", 96, (3, 3))),
        ("mean", Layer("branch_pool", pooled)),
    )


def _seven(width: int) -> Block:
    return (
        (Layer("branch1x1", 192),),
        (
            Layer("branch7x7_1", width),
            Layer("branch7x7_2", width, (1, 7)),
            Layer("branch7x7_3", 192, (7, 1)),
        ),
        (
            Layer("branch7x7dbl_1", width),
            Layer("branch7x7dbl_2", width, (7, 1)),
            Layer("branch7x7dbl_3", width, (1, 7)),
            Layer("branch7x7dbl_4", width, (7, 1)),
            Layer("branch7x7dbl_5", 192, (1, 7)),
        ),
        ("mean", Layer("branch_pool", 192)),
    )


def _three(pool: Step) -> Block:
    return (
        (Layer("branch1x1", 320),),
        (
            Layer("branch3x3_1", 384),
            (Layer("branch3x3_2a", 384, (1, 3)), Layer("branch3x3_2b", 384, (3, 1))),
        ),
        (
            Layer("branch3x3dbl_1", 448),
            Layer("branch3x3dbl_2", 384, (3, 3)),
            (Layer("branch3x3dbl_3a", 384, (1, 3)), Layer("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (pool, Layer("branch_pool", 192)),
    )


BLOCKS: tuple[Block, ...] = (
    _five(32),
    _five(64),
    _five(64),
    (
        (Layer("branch3x3", 384, (3, 3), 2),),
        (*_DOUBLE_3X3, Layer("branch3x3dbl_3", 96, (3, 3), 2)),
        ("halved",),
    ),
    _seven(128),
    _seven(160),
    _seven(160),
    _seven(192),
    (
        (Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, (3, 3), 2)),
        (
            Layer("branch7x7x3_1", 192),
            Layer("branch7x7x3_2", 192, (1, 7)),
            Layer("branch7x7x3_3", 192, (7, 1)),
            Layer("branch7x7x3_4", 192, (3, 3), 2),
        ),
        ("halved",),
    ),
    _three("mean"),
    # The published network has a maximum here, unlike the paper, which has the mean.
    _three("max"),
)
"""The blocks `Mixed_5b` to `Mixed_7c`."""


class Mixed(nnx.Module):
    """A block of branches: `FIDInceptionA` to `FIDInceptionE_2` of pytorch-fid. Layers have their
    official names; `outputs` is the number of output channels."""

    def __init__(
        self,
        inputs: int,
        block: Block,
        *,
        dtype: jnp.dtype,
        param_dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.block, self.outputs = block, 0
        for branch in block:
            channels = inputs
            for step in branch:
                layers = _layers(step)
                for layer in layers:
                    conv = NormedConv(
                        channels,
                        layer.outputs,
                        window=layer.window,
                        strides=(layer.stride,) * 2,
                        padding=tuple(n // 2 if layer.stride == 1 else 0 for n in layer.window),
                        dtype=dtype,
                        param_dtype=param_dtype,
                        rngs=rngs,
                    )
                    setattr(self, layer.name, conv)
                channels = sum(layer.outputs for layer in layers) or channels
            self.outputs += channels

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w2 d"]:
        branches = []
        for branch in self.block:
            hidden = video
            for step in branch:
                if isinstance(step, str):
                    hidden = _pooled(hidden, step)
                else:
                    found = [getattr(self, layer.name)(hidden) for layer in _layers(step)]
                    hidden = jnp.concatenate(found, axis=-1)
            branches.append(hidden)
        return jnp.concatenate(branches, axis=-1)


class InceptionV3(nnx.Module):
    """The InceptionV3 that FID is measured with, in evaluation mode: `fid_inception_v3` of
    pytorch-fid.

    `stem`, then `blocks`, then `classifier`. Built from an `InceptionConfig`, with random weights.
    """

    def __init__(self, config: InceptionConfig, *, rngs: nnx.Rngs):
        self.config = config
        options = {**style_dtypes(config), "rngs": rngs}
        a, b, c, d, e = _STEM_CHANNELS
        plain, whole = {"padding": (0, 0), **options}, {"padding": (1, 1), **options}
        self.stem = nnx.List(
            [
                NormedConv(3, a, window=(3, 3), strides=(2, 2), **plain),
                NormedConv(a, b, window=(3, 3), **plain),
                NormedConv(b, c, window=(3, 3), **whole),
                NormedConv(c, d, window=(1, 1), **plain),
                NormedConv(d, e, window=(3, 3), **plain),
            ]
        )
        self.blocks, inputs = nnx.List(), e
        for block in BLOCKS:
            self.blocks.append(Mixed(inputs, block, **options))
            inputs = self.blocks[-1].outputs
        # The output is float32 in any case.
        last = options | {"dtype": jnp.dtype("float32")}
        self.classifier = nnx.Linear(inputs, CLASSES, **last)

    def features(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b t c"]:
        """The 2048 features of every frame of a video in [-1, 1]: the last block's means over the
        frame, `pool3` in FID.

        Raises:
            ValueError: frames have fewer than 75 pixels of height or width.
        """
        height, width = video.shape[2:4]
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"InceptionV3 takes frames of {SMALLEST} x {SMALLEST} pixels and more, not "
                f"{height} x {width}."
            )
        first, second, third, fourth, fifth = self.stem
        hidden = _pooled(third(second(first(video))), "halved")
        hidden = _pooled(fifth(fourth(hidden)), "halved")
        for block in self.blocks:
            hidden = block(hidden)
        return hidden.mean(axis=(2, 3))

    def logits(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b t k"]:
        """Logits of the 1008 classes for every frame; see `features`."""
        return self.classifier(self.features(video))


def _layers(step: Step) -> tuple[Layer, ...]:
    if isinstance(step, str):
        return ()
    return (step,) if isinstance(step, Layer) else step


def _pooled(video: Array, step: Literal["mean", "max", "halved"]) -> Array:
    window = (1, 3, 3)
    match step:
        case "mean":
            return mean_of_windows(video, window=window, padding=(0, 1, 1))
        case "max":
            return max_of_windows(video, window=window, strides=(1, 1, 1), padding=(0, 1, 1))
        case "halved":
            return max_of_windows(video, window=window, strides=(1, 2, 2), padding=(0, 0, 0))

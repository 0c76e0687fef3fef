"""LPIPS with AlexNet, which is faster: its convolutions, and a linear head for each of five
features."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax.config import LPIPSConfig, Remat
from cvvae_jax.models.blocks import style_dtypes
from cvvae_jax.models.feature_networks.layers import WindowConv, max_of_windows
from cvvae_jax.models.feature_networks.vgg import average_heads, scaled
from cvvae_jax.models.remat import run

SMALLEST = 31
"""The smallest height and width in pixels for which the last features have a position."""
LAYERS = ((64, 11), (192, 5), (384, 3), (256, 3), (256, 3))
"""Output channels and window of every convolution."""
_STRIDES = (4, 1, 1, 1, 1)
_PADDING = (2, 2, 1, 1, 1)
_POOLED = (1, 2)  # before these layers, height and width are halved


class AlexLPIPS(nnx.Module):
    """AlexNet up to relu5 and the five heads of LPIPS: `LPIPS(net="alex")` in the official code,
    torchvision's AlexNet.

    `layers` holds the convolutions, `heads` a linear layer without bias for each. Built from an
    `LPIPSConfig`, with random convolutions and heads that average channels.
    """

    def __init__(self, config: LPIPSConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtypes = style_dtypes(config)
        self.layers, inputs = nnx.List(), 3
        for (width, taps), stride, pad in zip(LAYERS, _STRIDES, _PADDING, strict=True):
            self.layers.append(
                WindowConv(
                    inputs,
                    width,
                    window=(taps, taps),
                    strides=(stride, stride),
                    padding=(pad, pad),
                    **dtypes,
                    rngs=rngs,
                )
            )
            inputs = width
        widths = [width for width, _ in LAYERS]
        heads = average_heads(widths, param_dtype=dtypes["param_dtype"], rngs=rngs)
        self.heads = nnx.List(heads)

    def features(
        self, video: Float[Array, "b t h w 3"], *, remat: Remat = "none"
    ) -> list[Float[Array, "b t _ _ _"]]:
        """relu1 to relu5 of every frame of a video in [-1, 1]. Unless `remat` is `none`, only these
        features are kept for a backward pass.

        Raises:
            ValueError: frames have fewer than 31 pixels of height or width.
        """
        height, width = video.shape[2:4]
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"AlexNet takes frames of {SMALLEST} x {SMALLEST} pixels and more, not "
                f"{height} x {width}."
            )
        hidden, features = scaled(video), []
        for i, layer in enumerate(self.layers):
            hidden = run(_pooled_layer if i in _POOLED else _layer, layer, hidden, remat=remat)
            features.append(hidden)
        return features


def _pooled_layer(layer, video):
    largest = max_of_windows(video, window=(1, 3, 3), strides=(1, 2, 2), padding=(0, 0, 0))
    return _layer(layer, largest)


def _layer(layer, video):
    return jax.nn.relu(layer(video))

"""Latents of a video, with what it takes to get the video back."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Float

from cvvae_jax.codec.pixels import PixelType


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Latents:
    """Latents of a video whose frame count and size the model's strides need not divide."""

    values: Float[Array | np.ndarray, "b n y x z"]
    """The latents; unscaled, unless `scaled`."""
    frames: int = dataclasses.field(metadata={"static": True})
    """Frames of the video; likewise `height` and `width`."""
    height: int = dataclasses.field(metadata={"static": True})
    """In pixels."""
    width: int = dataclasses.field(metadata={"static": True})
    """In pixels."""
    pixels: PixelType = dataclasses.field(default="float32", metadata={"static": True})
    """How the video was given, and is given back: uint8 in [0, 255], or about [-1, 1]."""
    scaled: bool = dataclasses.field(default=False, metadata={"static": True})
    """Whether the values are as diffusion models see them: see `VAE.scale`."""

"""Latents of a video, with what it takes to get the video back."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from cvvae_jax.codec.pixels import PixelType
from cvvae_jax.codec.values import on_host, require_finite
from cvvae_jax.config import ConfigError
from cvvae_jax.models.inputs import latents_array


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


def looked_at(latents: Latents | Any, *, channels: int) -> Latents:
    """The same, its values as float32 on the host.

    Args:
        latents: what was given as such.
        channels: of the model's latents.

    Raises:
        ConfigError: they are something else, none of this model's, or hold NaN or infinity.
    """
    if not isinstance(latents, Latents):
        raise ConfigError(
            f"latents must be cvvae_jax.Latents, as Codec.encode gives them, not "
            f"{type(latents).__name__}; scale and unscale of the codec's model take arrays."
        )
    values = on_host(latents_array(latents.values, channels=channels))
    require_finite(values, whose="the latents'")
    return dataclasses.replace(latents, values=values)

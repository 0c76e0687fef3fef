"""Latents of diffusion pipelines of PyTorch or JAX: what they return, and what they take."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Literal, get_args

import einops
import numpy as np
from jaxtyping import Array, Float

from cvvae_jax.codec.values import Latents, PixelType, require_one_of
from cvvae_jax.config.latent_scale import LATENT_SCALE, in_words, latent_scale
from cvvae_jax.errors import UserError
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.inputs import LatentsLike, as_array, latents_array

Layout = Literal["b z y x", "n z y x", "b z n y x", "b n z y x"]
"""Order of the axes of a pipeline's latents: images; the latent frames of one video, as a batch of
images; videos of text-to-video pipelines; videos of Stable Video Diffusion."""

_OURS = "b n y x z"
_DEFAULTS = {"scaling_factor": 1.0, "shift_factor": 0.0}


def from_pipeline(
    latents: LatentsLike, layout: Layout, *, vae: VAE, pixels: PixelType = "uint8"
) -> Latents:
    """Turn what a pipeline returns for `output_type="latent"` into what `Codec.decode` takes.

    Args:
        latents: scaled latents, as diffusion models have them: an array, or a tensor of PyTorch of
            any float type on any device.
        layout: order of their axes: `b z y x` of image pipelines, where each image becomes a video
            of one latent frame; `n z y x` where the images of a batch are the latent frames of one
            video; `b z n y x` of text-to-video pipelines; `b n z y x` of Stable Video Diffusion.
        vae: the VAE whose latent space they are in. Its video has 1 + (n - 1) * k frames for n
            latent frames, where k is the temporal compression.
        pixels: type of the decoded video: uint8 in [0, 255], or float32 of about [-1, 1].

    Returns:
        `Latents` with values (b, n, y, x, z), which are scaled and say so.

    Raises:
        UserError: there is no such layout, or the latents have other axes or other channels.
    """
    require_one_of("layout", layout, Layout)
    array = as_array(_on_host(latents), "latents")
    _require_axes(array.shape, layout, channels=vae.config.latent_channels)
    values = einops.rearrange(array, f"{layout} -> {_with_ones(_OURS, layout)}")
    values = latents_array(values, channels=vae.config.latent_channels)
    _, n, y, x, _ = values.shape
    space = vae.config.spatial_compression
    frames = 1 + (n - 1) * vae.temporal_compression
    return Latents(values, frames, y * space, x * space, pixels, scaled=True)


def to_pipeline(latents: Latents, layout: Layout, *, vae: VAE) -> Float[Array | np.ndarray, "..."]:
    """The inverse of `from_pipeline`: latents of an encoded video, for a diffusion model.

    Args:
        latents: `Latents`, as `Codec.encode` gives them; unscaled ones are scaled.
        layout: order of the axes of the result: see `from_pipeline`.
        vae: the VAE that encoded them.

    Returns:
        Scaled latents, float32: a NumPy array, or a JAX array if `latents` hold one.
        `torch.from_numpy` makes a tensor of the former.

    Raises:
        UserError: there is no such layout, or it has no place for several videos or latent frames.
    """
    require_one_of("layout", layout, Layout)
    values = latents.values if latents.scaled else vae.scale(latents.values)
    b, n, *_ = values.shape
    for axis, size, what in (("b", b, "video"), ("n", n, "latent frame")):
        if axis not in layout and size != 1:
            raise UserError(f"layout {layout!r} has one {what}, and these latents have {size}.")
    array = einops.rearrange(values, f"{_with_ones(_OURS, layout)} -> {layout}")
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array


def require_scale(config: Mapping[str, Any], *, vae: VAE) -> None:
    """Refuse a pipeline whose latents are scaled otherwise than a VAE's.

    Latents of Stable Diffusion 2 and XL, for example, have equal shapes, but lie in different
    spaces; the scale tells them apart.

    Args:
        config: the configuration of the pipeline's own VAE, such as `pipe.vae.config`.
        vae: the VAE that is to decode the pipeline's latents.

    Raises:
        UserError: the scales differ.
    """
    given = {name: config.get(name) for name in LATENT_SCALE}
    theirs = {name: _DEFAULTS.get(name) if v is None else v for name, v in given.items()}
    theirs = {name: tuple(v) if isinstance(v, list) else v for name, v in theirs.items()}
    if theirs != latent_scale(vae.config):
        raise UserError(
            f"the pipeline scales latents as {in_words(SimpleNamespace(**theirs))}, this VAE as "
            f"{in_words(vae.config)}: they are not of one latent space."
        )


def _on_host(given: LatentsLike) -> LatentsLike:
    """Tensors of PyTorch as float32 on the host: NumPy reads neither those of a GPU, nor bfloat16,
    nor those with a gradient. All else as it is."""
    return given.detach().float().cpu() if hasattr(given, "detach") else given


def _with_ones(layout: str, kept: str) -> str:
    """A pattern of einops in which axes that another layout lacks have size 1."""
    return " ".join(axis if axis in kept else "1" for axis in layout.split())


def _require_axes(shape: tuple[int, ...], layout: Layout, *, channels: int) -> None:
    """Raise UserError unless latents have the axes of a layout and a VAE's channels."""
    axes = layout.split()
    if len(shape) == len(axes) and shape[axes.index("z")] == channels:
        return
    fitting = [
        f"{other!r}"
        for other in get_args(Layout)
        if len(other.split()) == len(shape) and shape[other.split().index("z")] == channels
    ]
    hint = f"; they fit {' and '.join(fitting)}" if fitting else ""
    raise UserError(
        f"latents {shape} are not {layout!r} with the {channels} channels (z) of this VAE{hint}."
    )

"""Which family a set of official tensors is of, read from their names and shapes."""

import dataclasses
import re
from collections import Counter
from typing import Any

from cvvae_jax.config import ImageVAEConfig, SVDVAEConfig
from cvvae_jax.convert import names
from cvvae_jax.convert.families import (
    FAMILIES,
    IMAGE,
    IMAGE_LDM,
    SD3,
    SD21,
    SVD,
    Family,
)
from cvvae_jax.convert.names import Row, our_path
from cvvae_jax.convert.sizes import Shapes, levels_of, most, sizes_of
from cvvae_jax.errors import UserError
from cvvae_jax.models.video_vae import PRESETS


def recognize(shapes: Shapes, *, groups: int = 32, source: str) -> tuple[Family, Any]:
    """The family and the configuration of official tensors.

    Sizes are read from most of the tensors that show them, so that single missing or misshapen
    tensors can be named afterwards. Settings that no tensor shows (groups of the norms, scaling
    factors, causality) have the family's default.

    Args:
        shapes: shapes of official tensors by name, without a prefix (see `parts`).
        groups: groups of the norms, which no tensor shows.
        source: the file's name in messages.

    Raises:
        UserError: the tensors belong to no family, or to several.
    """
    for family in FAMILIES:
        is_like = re.compile(family.signature.pattern).match
        if family.read_config and any(map(is_like, shapes)) and family.is_meant(shapes):
            return family, family.read_config(shapes)
    ldm = [name for name in shapes if re.match(r"(en|de)coder\.(down|up|mid)\.", name)]
    diffusers = [name for name in shapes if re.match(r"(en|de)coder\.(down|up|mid)_block", name)]
    if ldm and diffusers:
        raise UserError(
            f"{source} mixes two families: {len(ldm)} tensors have latent-diffusion names "
            f"({ldm[0]}, ..), {len(diffusers)} diffusers names ({diffusers[0]}, ..)."
        )
    if not ldm and not diffusers:
        raise UserError(
            f"{source} holds no known model: a CV-VAE, an AutoencoderKL, an "
            "AutoencoderKLTemporalDecoder, CV-VAE's discriminator, LPIPS, VGG16, AlexNet, "
            "Inception-I3D or FID's InceptionV3 are read; its "
            f"tensors are called {', '.join(list(shapes)[:3]) or 'nothing'}, .."
        )
    return _autoencoder(shapes, ldm=bool(ldm), groups=groups, source=source)


def _autoencoder(shapes: Shapes, *, ldm: bool, groups: int, source: str) -> tuple[Family, Any]:
    if _any(shapes, r"decoder\..*(spatial_res_block|temporal_res_block|time_mixer).*"):
        ours = _by_path(shapes, names.svd_rows())
        sizes = sizes_of(ours, groups=groups, source=source)
        return SVD, SVDVAEConfig(**sizes)
    rows = names.ldm_rows(levels_of(shapes), image=True) if ldm else names.diffusers_rows()
    ours = _by_path(shapes, rows)
    ranks = Counter(len(shape) for path, shape in ours.items() if path.endswith("conv1/kernel"))
    if len(ranks) > 1 and min(ranks.values()) > 1:
        raise UserError(
            f"{source} mixes two families: {ranks[4]} first convolutions of residual blocks are "
            f"2-D, an image VAE's, and {ranks[5]} are 3-D, a video VAE's."
        )
    sizes = sizes_of(ours, groups=groups, source=source)
    attention = any("mid_block/attentions" in path for path in ours)
    if most(len(shape) for path, shape in ours.items() if path.endswith("conv1/kernel")) == 4:
        quant = any("quant_conv/" in path for path in ours)
        config = ImageVAEConfig(**sizes, mid_attention=attention, quant_conv=quant)
        return (IMAGE_LDM if ldm else IMAGE), config
    half = most(len(shape) for path, shape in ours.items() if path.endswith("conv2/kernel")) == 4
    temporal = any(path.endswith("attentions/00/q_t/kernel") for path in ours)
    config = dataclasses.replace(
        PRESETS["sd21" if ldm else "sd3"],
        **sizes,
        half_3d=half,
        mid_attention=attention,
        temporal_strides=alternating_strides(len(sizes["block_channels"])),
        decoder_attention="spatial_temporal" if temporal else "spatial",
    )
    return (SD21 if ldm else SD3), config


def alternating_strides(levels: int) -> tuple[int, ...]:
    """The official strides in time: every other downsampling, the first one included, halves it."""
    return tuple(2 if level % 2 == 0 else 1 for level in range(levels - 1))


def with_usual_scale(config: ImageVAEConfig) -> ImageVAEConfig:
    """SD 1.x/2.x's factor for 4 channels, SD3's for 16; only a config.json can tell SDXL and
    FLUX."""
    if config.latent_channels == 16:
        return dataclasses.replace(config, scaling_factor=1.5305, shift_factor=0.0609)
    return config


def _by_path(shapes: Shapes, rows: list[Row]) -> dict[str, tuple[int, ...]]:
    found = {name: our_path(rows, name) for name in shapes}
    return {place[0]: shapes[name] for name, place in found.items() if place}


def _any(shapes: Shapes, pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in shapes)

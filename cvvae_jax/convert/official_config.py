"""The official classes' config.json, read and written."""

import dataclasses
import typing
from typing import Any

from cvvae_jax.config import SVDVAEConfig
from cvvae_jax.config.latent_scale import LATENT_SCALE, latent_scale
from cvvae_jax.config.reading import typed
from cvvae_jax.convert import families
from cvvae_jax.convert.convert import official_shapes
from cvvae_jax.convert.families import Family
from cvvae_jax.errors import UserError
from cvvae_jax.models.video_vae import PRESETS

# The release whose classes the exports were tried with.
_DIFFUSERS_VERSION = "0.42.1"

# Where a class has no setting for it.
_GROUPS = 32

_CAUSAL = ("causal_encoder", "causal_decoder")
# Settings that no tensor shows, by their names here; official ones are called alike but for one.
_UNSEEN = {
    families.SD21.title: (*_CAUSAL, *LATENT_SCALE),
    families.SD3.title: ("norm_groups", *_CAUSAL, *LATENT_SCALE),
    families.IMAGE.title: ("norm_groups", *LATENT_SCALE),
    families.IMAGE_LDM.title: ("norm_groups", *LATENT_SCALE),
    families.SVD.title: LATENT_SCALE,
}
_OFFICIAL_NAMES = {"norm_groups": "norm_num_groups"}
# How models are scaled whose class does not write all of it down.
_USUAL = {
    families.SD21.title: PRESETS["sd21"],
    families.SD3.title: PRESETS["sd3"],
    families.SVD.title: SVDVAEConfig(),
}

# How long and large videos are cut, which is `Codec`'s part here, and what only training uses.
_FREE = {
    "sample_size",
    "force_upcast",
    "dropout",
    "en_de_n_frames_a_time",
    "tile_spatial_size",
    "tile_overlap_ratio",
    "num_video_frames",
    "reshape_z_dim_to_4",
    "reshape_x_dim_to_4",
}
_SAME = {"vanilla": "vanilla-xformers"}


def with_official_config(family: Family, config: Any, given: dict[str, Any], *, source: str) -> Any:
    """The configuration read from tensors, with what only a config.json knows.

    Args:
        family: what the tensors are.
        config: our configuration, as the tensors show it.
        given: the official config.json.
        source: what to call it in messages.

    Raises:
        UserError: it contradicts the tensors; all contradictions are listed.
    """
    try:
        config = _with_unseen(family, config, given)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    expected = official_config(family, config)
    wrong = [
        f"{name} is {value!r}, the tensors have {expected[name]!r}"
        for name, value in given.items()
        if name in expected.keys() - _FREE - {"_diffusers_version"}
        and not _equal(value, expected[name])
    ]
    if wrong:
        raise UserError(f"{source} contradicts the tensors: {'; '.join(wrong)}.")
    return config


def norm_groups(given: dict[str, Any], *, source: str) -> int:
    """The groups of the norms that a config.json names, else every official model's.

    Raises:
        UserError: they are no number of groups.
    """
    groups = given.get("norm_num_groups", _GROUPS)
    if type(groups) is not int or groups < 1:
        raise UserError(f"{source}: norm_num_groups must be a number above 0, not {groups!r}.")
    return groups


def _unseen(family: Family, given: dict[str, Any]) -> dict[str, Any]:
    """What a config.json says of settings that no tensor shows, by their names here."""
    names = _UNSEEN.get(family.title, ())
    named = {name: given.get(_OFFICIAL_NAMES.get(name, name)) for name in names}
    return {name: value for name, value in named.items() if value is not None}


def _with_unseen(family: Family, config: Any, given: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(type(config))
    taken = {
        name: typed(hints[name], value, _OFFICIAL_NAMES.get(name, name))
        for name, value in _unseen(family, given).items()
    }
    if "latents_mean" in taken:
        taken.setdefault("shift_factor", 0.0)  # the family's own is of the other way to scale
    if family is families.SD3 and "causal_decoder" in taken:
        taken["causal_upsampling"] = taken["causal_decoder"]
    return dataclasses.replace(config, **taken)


def official_config(family: Family, config: Any) -> dict[str, Any]:
    """The config.json of the official class."""
    fields = {
        families.SD21.title: _sd21_config,
        families.SD3.title: _sd3_config,
        families.IMAGE.title: _image_config,
        families.IMAGE_LDM.title: _image_config,
        families.SVD.title: _svd_config,
        families.DISCRIMINATOR.title: _discriminator_config,
    }.get(family.title, lambda _: {})(config)
    head = {"_class_name": family.official_class, "_diffusers_version": _DIFFUSERS_VERSION}
    return {**head, **fields, **_unusual_scale(family, config, fields)}


def _unusual_scale(family: Family, config: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """How latents are scaled, where the official class has no field for it and its models are
    scaled otherwise: the class passes over it, and `load` finds it."""
    usual = _USUAL.get(family.title)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in (latent_scale(config) if usual else {}).items()
        if name not in fields and value != getattr(usual, name)
    }


def exportable(model: Any) -> tuple[Family, dict[str, Any]]:
    """The official class that can hold a model of ours, and its config.json.

    Raises:
        UserError: no official class computes the same; what keeps the nearest one from it is
            listed.
    """
    candidates = [f for f in families.FAMILIES if isinstance(model, f.model_class) and f.exported]
    tried = {family.title: _differences(model, family) for family in candidates}
    nearest = min(candidates, key=lambda family: len(tried[family.title]))
    if tried[nearest.title]:
        raise UserError(
            "no official class can hold this model; the nearest, "
            f"{nearest.official_class}, needs {'; '.join(tried[nearest.title])}."
        )
    return nearest, official_config(nearest, model.config)


def _differences(model: Any, family: Family) -> list[str]:
    """What would be read back otherwise from an export as this family."""
    config = model.config
    channels = getattr(config, "block_channels", ())
    if family is families.SD21 and any(width % channels[0] for width in channels):
        return [f"block_channels that are multiples of the first (they are {channels})"]
    groups = getattr(config, "norm_groups", _GROUPS)
    if groups != _GROUPS and "norm_groups" not in _UNSEEN.get(family.title, ()):
        return [f"norm_groups {_GROUPS} (it is {groups})"]
    shapes = dict(official_shapes(model, family.rows(config)).values())
    _, read = families.recognize(shapes, groups=groups, source="the export")
    read = _with_unseen(family, read, official_config(family, config))
    ignored = {"dtype", "decoder_dtype", "param_dtype"}
    if not getattr(config, "mid_attention", True):
        ignored.add("decoder_attention")
    return [
        f"{name} {getattr(read, name)!r} (it is {getattr(config, name)!r})"
        for name in (field.name for field in dataclasses.fields(config))
        if name not in ignored and getattr(read, name) != getattr(config, name)
    ]


def _sd21_config(config: Any) -> dict[str, Any]:
    spatial = "vanilla-xformers" if config.mid_attention else "none"
    temporal = config.mid_attention and config.decoder_attention == "spatial_temporal"
    width = config.block_channels[0]
    return {
        "double_z": True,
        "z_channels": config.latent_channels,
        "in_channels": 3,
        "out_ch": 3,
        "ch": width,
        "ch_mult": [channels // width for channels in config.block_channels],
        "num_res_blocks": config.blocks_per_level,
        "attn_resolutions": [],
        "dropout": 0.0,
        "use_3d_conv": True,
        "half_3d": config.half_3d,
        "causal_encoder": config.causal_encoder,
        "causal_decoder": config.causal_decoder,
        "encoder_attn_type": spatial,
        "decoder_attn_type": "spatial-temporal-xformer" if temporal else spatial,
        "scaling_factor": config.scaling_factor,
        "force_upcast": True,
        **_chunking(config),
    }


def _sd3_config(config: Any) -> dict[str, Any]:
    levels = len(config.block_channels)
    return {
        "in_channels": 3,
        "out_channels": config.latent_channels,
        "down_block_types": ["DownEncoderBlock3D"] * levels,
        "up_block_types": ["UpDecoderBlock3D"] * levels,
        "block_out_channels": list(config.block_channels),
        "layers_per_block": config.blocks_per_level,
        "norm_num_groups": config.norm_groups,
        "act_fn": "silu",
        "double_z": True,
        "mid_block_add_attention": config.mid_attention,
        "causal_encoder": config.causal_encoder,
        "causal_decoder": config.causal_decoder,
        "half_3d": config.half_3d,
        **_chunking(config),
    }


def _chunking(config: Any) -> dict[str, Any]:
    """How the official classes cut long and large videos: their own defaults."""
    return {
        "en_de_n_frames_a_time": 16,
        "time_n_compress": config.temporal_compression,
        "spatial_n_compress": config.spatial_compression,
        "tile_spatial_size": 576,
        "num_video_frames": None,
        "tile_overlap_ratio": 0.2222,
        "reshape_z_dim_to_4": False,
        "reshape_x_dim_to_4": False,
    }


def _image_config(config: Any) -> dict[str, Any]:
    levels = len(config.block_channels)
    return {
        "act_fn": "silu",
        "block_out_channels": list(config.block_channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "latents_mean": _list_or_none(config.latents_mean),
        "latents_std": _list_or_none(config.latents_std),
        "layers_per_block": config.blocks_per_level,
        "mid_block_add_attention": config.mid_attention,
        "norm_num_groups": config.norm_groups,
        "out_channels": 3,
        "sample_size": 512 if config.latent_channels == 4 else 1024,
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor or None,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_post_quant_conv": config.quant_conv,
        "use_quant_conv": config.quant_conv,
    }


def _list_or_none(values: tuple[float, ...] | None) -> list[float] | None:
    return None if values is None else list(values)


def _svd_config(config: Any) -> dict[str, Any]:
    return {
        "block_out_channels": list(config.block_channels),
        "down_block_types": ["DownEncoderBlock2D"] * len(config.block_channels),
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.blocks_per_level,
        "out_channels": 3,
        "sample_size": 768,
        "scaling_factor": config.scaling_factor,
    }


def _discriminator_config(config: Any) -> dict[str, Any]:
    return {
        "input_nc": 3,
        "ndf": config.base_channels,
        "n_layers": config.layers,
        "use_actnorm": False,
        "half_3d": config.half_3d,
        "causal": False,
    }


def _equal(given: Any, expected: Any) -> bool:
    """Equal once lists are lists and names are one; null stands for no shift."""
    given = list(given) if isinstance(given, tuple) else given
    if isinstance(given, str):
        given = _SAME.get(given, given)
    return given == expected or (given in (None, 0.0) and expected in (None, 0.0))

"""The official classes' config.json, read and written."""

import dataclasses
import typing
from typing import Any

from cvvae_jax.config.latent_scale import latent_scale
from cvvae_jax.config.reading import typed
from cvvae_jax.convert import families
from cvvae_jax.convert.convert import official_shapes
from cvvae_jax.convert.families import Family
from cvvae_jax.convert.recognition import recognize
from cvvae_jax.errors import UserError

# The release whose classes the exports were tried with.
_DIFFUSERS_VERSION = "0.42.1"

# Groups of every norm where a config.json names none.
_GROUPS = 32

_OFFICIAL_NAMES = {"norm_groups": "norm_num_groups"}
# Settings of the official classes that change nothing here: how long and large videos are cut,
# which a `Codec` is told when it is made, and what only training uses.
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
    """The settings of a config.json that no tensor shows, by their names here."""
    names = family.unseen
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
    fields = family.official_config(config)
    head = {"_class_name": family.official_class, "_diffusers_version": _DIFFUSERS_VERSION}
    return {**head, **fields, **_unusual_scale(family, config, fields)}


def _unusual_scale(family: Family, config: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """How latents are scaled, where the official class has no field for it and its models are
    scaled otherwise: the class passes over it, and `load` finds it."""
    usual = family.usual
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
    """The settings that would be read back changed from an export as this family, in words."""
    config, found = model.config, []
    ignored = {"dtype", "decoder_dtype", "param_dtype"}
    channels = getattr(config, "block_channels", ())
    if family is families.SD21 and any(width % channels[0] for width in channels):
        found.append(f"block_channels that are multiples of the first (they are {channels})")
        ignored.add("block_channels")
    groups = getattr(config, "norm_groups", _GROUPS)
    if groups != _GROUPS and "norm_groups" not in family.unseen:
        found.append(f"norm_groups {_GROUPS} (it is {groups})")
        ignored.add("norm_groups")
    shapes = dict(official_shapes(model, family.layer_names(config)).values())
    _, read = recognize(shapes, groups=groups, source="the export")
    read = _with_unseen(family, read, official_config(family, config))
    if not getattr(config, "mid_attention", True):
        ignored.add("decoder_attention")
    return found + [
        f"{name} {getattr(read, name)!r} (it is {getattr(config, name)!r})"
        for name in (field.name for field in dataclasses.fields(config))
        if name not in ignored and getattr(read, name) != getattr(config, name)
    ]


def _equal(given: Any, expected: Any) -> bool:
    """Equal once lists are lists and names are one; null stands for no shift."""
    given = list(given) if isinstance(given, tuple) else given
    if isinstance(given, str):
        given = _SAME.get(given, given)
    return given == expected or (given in (None, 0.0) and expected in (None, 0.0))

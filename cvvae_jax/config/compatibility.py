"""The terms of compatibility that `loss.compat_mode` names, with their weights."""

import math
from typing import Literal, get_args

from cvvae_jax.errors import ConfigError

CompatTerm = Literal["decoder", "encoder", "latent", "features"]
"""What compatibility may ask for (see `losses`)."""
_SHORT_FORMS = {"none": "", "both": "decoder,encoder"}


def compat_weights(mode: str) -> dict[CompatTerm, float]:
    """The terms that a mode names, with the weight of each; empty for `none`.

    Args:
        mode: `none`, `both` (decoder and encoder), or terms between commas, each with `:` and its
            weight, which may be left out where it is 1: `decoder,latent:0.1`.

    Raises:
        ConfigError: the mode names an unknown term, a term twice, or a weight that is negative or
            no number.
    """
    parts = [part.strip() for part in _SHORT_FORMS.get(mode, mode).split(",")]
    weights = {}
    for part in parts if parts != [""] else ():
        name, colon, number = part.partition(":")
        if name not in get_args(CompatTerm) or name in weights:
            raise _refused(mode)
        weights[name] = _weight(number, mode) if colon else 1.0
    if not weights and mode != "none":
        raise _refused(mode)
    return weights


def _weight(number: str, mode: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = -1.0
    if not 0 <= weight < math.inf:
        raise _refused(mode)
    return weight


def _refused(mode: str) -> ConfigError:
    terms = ", ".join(get_args(CompatTerm))
    return ConfigError(
        f"compat_mode must be none, both, or some of {terms} between commas, each once and with a "
        f"weight of 0 or more behind a colon if it isn't 1 (decoder,latent:0.1), not {mode!r}."
    )


def named_layers(layers: str) -> tuple[str, ...]:
    """The layers that `loss.feature_layers` names between commas.

    Raises:
        ConfigError: it names none.
    """
    names = tuple(name.strip() for name in layers.split(","))
    if not all(names):
        raise ConfigError(
            f"feature_layers must be names of layers between commas, such as conv_in,mid_block, "
            f"not {layers!r}."
        )
    return names

"""The scale by which latents are brought to the range that diffusion models expect, and back.

diffusers' pipelines have two forms: (latents - shift_factor) * scaling_factor, and for models with
a mean and a standard deviation of every channel, such as Playground v2.5,
(latents - latents_mean) * scaling_factor / latents_std. Neither form shifts twice.
"""

import math
from typing import Any

from cvvae_jax.errors import ConfigError

LATENT_SCALE = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
"""The settings of the scale, in the configuration of a VAE and in files that it has made."""


def latent_scale(described: Any) -> dict[str, Any]:
    """The settings of the scale, from a VAE's configuration or another object that has them."""
    return {name: getattr(described, name) for name in LATENT_SCALE}


def in_words(described: Any) -> str:
    """The scale as a formula."""
    if described.latents_mean is None:
        return f"(latents - {described.shift_factor}) * {described.scaling_factor}"
    mean, std = list(described.latents_mean), list(described.latents_std)
    return f"(latents - {mean}) * {described.scaling_factor} / {std}"


def check_latent_scale(config: Any) -> None:
    """Raises a ConfigError where the scale's factors can't be used, or where its mean and standard
    deviation don't fit each other or the rest."""
    if not math.isfinite(config.scaling_factor) or config.scaling_factor == 0:
        raise ConfigError(
            f"scaling_factor must be a finite number other than 0, not {config.scaling_factor}."
        )
    if not math.isfinite(config.shift_factor):
        raise ConfigError(f"shift_factor must be a finite number, not {config.shift_factor}.")
    given = {name: getattr(config, name) for name in ("latents_mean", "latents_std")}
    if None in given.values():
        for name, values in given.items():
            if values is not None:
                raise ConfigError(
                    f"{name} is given alone; latents_mean and latents_std go together."
                )
        return
    for name, values in given.items():
        if len(values) != config.latent_channels:
            raise ConfigError(
                f"{name} must have a number for each of the {config.latent_channels} channels of "
                f"the latents, not {len(values)}."
            )
        if not all(map(math.isfinite, values)) or (name == "latents_std" and min(values) <= 0):
            above = " above 0" if name == "latents_std" else ""
            raise ConfigError(f"{name} must be finite numbers{above}, not {list(values)}.")
    if config.shift_factor:
        raise ConfigError(
            f"shift_factor is {config.shift_factor} beside latents_mean, and either shifts the "
            "latents; it must be 0 where latents_mean is given."
        )

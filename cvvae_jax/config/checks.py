"""Checks that settings of all kinds share."""

from typing import Any

from cvvae_jax.errors import ConfigError


def at_least(config: Any, smallest: int, *names: str) -> None:
    """Refuses fields below a limit, and NaN."""
    for name in names:
        value = getattr(config, name)
        if not value >= smallest:
            raise ConfigError(f"{name} must be {smallest} or more, not {value}.")


def at_most(config: Any, largest: int, *names: str) -> None:
    """Refuses fields above a limit."""
    for name in names:
        value = getattr(config, name)
        if value > largest:
            raise ConfigError(f"{name} must be {largest:,} or less, not {value:,}.")

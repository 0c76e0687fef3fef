"""Checks of settings against limits."""

from typing import Any

from cvvae_jax.errors import ConfigError


def at_least(config: Any, smallest: int, *names: str) -> None:
    """Raises a ConfigError where a field is below the limit or NaN."""
    for name in names:
        value = getattr(config, name)
        if not value >= smallest:
            raise ConfigError(f"{name} must be {smallest} or more, not {value}.")


def at_most(config: Any, largest: int, *names: str) -> None:
    """Raises a ConfigError where a field is above the limit."""
    for name in names:
        value = getattr(config, name)
        if value > largest:
            raise ConfigError(f"{name} must be {largest:,} or less, not {value:,}.")

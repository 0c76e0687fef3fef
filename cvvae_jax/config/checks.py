"""What every setting shares: the error that names a bad one, and checks."""

from typing import Any


class ConfigError(ValueError):
    """A setting, a file or an argument that cannot be used; its message is a sentence for users."""


def at_least(config: Any, smallest: int, *names: str) -> None:
    """Refuses fields below a limit."""
    for name in names:
        if getattr(config, name) < smallest:
            value = getattr(config, name)
            raise ConfigError(f"{name} must be {smallest} or more, not {value}.")

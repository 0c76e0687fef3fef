"""Places of files: local paths, in which `~` is a home folder, models that come with the package,
and remote addresses."""

import os
import re
from typing import Any

from cvvae_jax.errors import ConfigError
from cvvae_jax.resources import pretrained_folder

_PRETRAINED = "pretrained:"


def at_home(path: str | os.PathLike[str]) -> str:
    """A path with its leading `~` or `~user` replaced by the home folder, as a shell does it, and
    `pretrained:NAME` by the folder of a model that comes with the package.

    A remote address, and a pattern after the folder, are unchanged.
    """
    path = os.path.expanduser(path)
    if path.startswith(_PRETRAINED):
        return str(pretrained_folder() / path.removeprefix(_PRETRAINED))
    return path


def expand_home(config: Any, *names: str) -> None:
    """Applies `at_home` to fields of a frozen dataclass, in its `__post_init__`; None stays None.

    Raises:
        ConfigError: a field is neither text nor a path.
    """
    for name in names:
        given = getattr(config, name)
        if given is None:
            continue
        if not isinstance(given, str | os.PathLike):
            raise ConfigError(
                f"{name} must be a path, a pattern or an address, not {type(given).__name__}; "
                "clips in memory go through cvvae_jax.data.from_arrays."
            )
        object.__setattr__(config, name, at_home(given))


def argument_at_home(argument: str) -> str:
    """Applies `at_home` to an argument of a command: PATH, --option=PATH or NAME=PATH."""
    name, path = re.fullmatch(r"([^=~]*=)?(.*)", argument, re.DOTALL).groups(default="")
    return name + at_home(path)


def is_remote(place: str) -> bool:
    """Whether a place is a remote address rather than a local path."""
    return "://" in place


def is_absolute(path: str) -> bool:
    """Whether a path does not depend on the working folder."""
    return is_remote(path) or os.path.isabs(path)

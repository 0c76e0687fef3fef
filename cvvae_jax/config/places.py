"""Places of files: local paths, in which `~` is a home folder, and remote addresses."""

import os
import re
from typing import Any


def at_home(path: str | os.PathLike[str]) -> str:
    """A path whose `~` or `~user` at the start is that one's home folder, as a shell reads it.

    An address, and a pattern behind the folder, stay as they are.
    """
    return os.path.expanduser(path)


def expand_home(config: Any, *names: str) -> None:
    """The same for fields of a frozen dataclass that is being made; None stays None."""
    for name in names:
        if getattr(config, name) is not None:
            object.__setattr__(config, name, at_home(getattr(config, name)))


def argument_at_home(argument: str) -> str:
    """The same for an argument of a command: PATH, --option=PATH or NAME=PATH."""
    name, path = re.fullmatch(r"([^=~]*=)?(.*)", argument, re.DOTALL).groups(default="")
    return name + at_home(path)


def is_remote(place: str) -> bool:
    """Whether a place is an address and no local path."""
    return "://" in place


def is_absolute(path: str) -> bool:
    """Whether a path means the same wherever it is written."""
    return is_remote(path) or os.path.isabs(path)

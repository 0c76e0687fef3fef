"""`~` in paths, which a shell leaves as it is inside of quotes and after a `=`."""

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

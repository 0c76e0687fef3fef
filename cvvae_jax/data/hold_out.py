"""Which files are held out to measure on: by a hash of the name of each, so that files that come or
go move no others."""

import glob
import hashlib
import os
from collections.abc import Mapping, Sequence

from cvvae_jax.config.home import at_home
from cvvae_jax.data.files import is_remote
from cvvae_jax.data.media import Kind

Sides = Mapping[str, bool]
"""Whether files are held out, by key."""
Known = Mapping[Kind, Sides]
"""The same by kind, of all files that a run has seen."""

_SHARE = 0.1


def key_of(place: str, name: str) -> str:
    """The name of a file by which its side is drawn: its path in the place, wherever that lies.

    Args:
        place: as `open_source` takes it.
        name: as the source calls the file.
    """
    root = at_home(place)
    if glob.has_magic(root) or not (is_remote(root) or os.path.isdir(root)):
        fixed = root[: next((i for i, letter in enumerate(root) if letter in "*?[{"), len(root))]
        root = fixed.rpartition("/")[0]
    return name.removeprefix(f"{root.rstrip('/')}/") if root else name


def held_out(keys: Sequence[str], known: Sides | None = None) -> list[bool]:
    """Whether each file is held out: about one in ten; of two files and more at least one is, and
    at least one isn't.

    Args:
        keys: of all files of a place.
        known: sides that were taken before, which stay.
    """
    known = known or {}
    drawn = [_drawn(key) for key in keys]
    sides = [known.get(key, number < _SHARE) for key, number in zip(keys, drawn, strict=True)]
    new = [i for i, key in enumerate(keys) if key not in known]
    if len(set(keys)) > 1 and new and len(set(sides)) == 1:
        # Few files, all of which the hash has put on one side.
        nearest = (min if not sides[0] else max)(new, key=drawn.__getitem__)
        sides = [not side if keys[i] == keys[nearest] else side for i, side in enumerate(sides)]
    elif len(set(keys)) == 1 and new:
        sides = [False] * len(keys)
    return sides


def _drawn(key: str) -> float:
    """A number from 0 to below 1, the same for a key on all machines."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64

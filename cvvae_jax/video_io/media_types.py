"""The types of media: a file, a file in memory, or decoded frames."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from cvvae_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Blob:
    """A media file in memory: a record of a shard, or a file fetched from a bucket."""

    name: str
    """Name for messages; its suffix says whether this is an image or a video."""
    data: bytes
    """Content of the file."""

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
    """A video that is decoded already, or an image as one frame."""

    name: str
    """Name for messages."""
    array: np.ndarray
    """uint8 (frames, height, width, 3), RGB."""
    fps: float = 25.0
    """Frames per second; 25 where it is unknown."""

    def __str__(self) -> str:
        return self.name


class NothingFound(UserError):
    """A place can be read but holds no media of the wanted kind."""


MediaFile = str | Path | Blob
"""A file to decode; a string is a local path."""
MediaKind = Literal["video", "image"]
"""The kind of media in a source."""
Media = Path | Blob | Frames
"""An element of a source."""

"""What a source of training data holds: a file, a file in memory, or frames decoded already."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from cvvae_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Blob:
    """A media file in memory: a record of a shard, or what was fetched from a bucket."""

    name: str
    """What messages call it; its suffix says whether it is an image or a video."""
    data: bytes
    """The whole file."""

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
    """A video, or an image as one frame, that was decoded by someone else."""

    name: str
    """What messages call it."""
    array: np.ndarray
    """uint8 (frames, height, width, 3), RGB."""
    fps: float = 25.0
    """Frames per second, where that is known."""

    def __str__(self) -> str:
        return self.name


class NothingFound(UserError):
    """A place holds no media of the kind that is wanted, though it could be read."""


MediaFile = str | Path | Blob
"""What is decoded here. A plain string is a local path."""
MediaKind = Literal["video", "image"]
"""What is wanted of a source."""
Media = Path | Blob | Frames
"""What a source holds."""

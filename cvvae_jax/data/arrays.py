"""Clips in memory as a place of data, for training from Python: `from_arrays`."""

import itertools
import re
from typing import Any

import numpy as np

from cvvae_jax.errors import UserError
from cvvae_jax.video_io.media_types import Frames, MediaKind

_PREFIX = "arrays:"
_WANTED = "uint8 (frames, height, width, 3), or uint8 (height, width, 3) for an image"


ClipsLike = Any
"""Clips by number: a list of arrays, or anything with `len()` and `[i]`, such as a data set of
another library, whose clips `numpy.asarray` makes arrays of uint8 of."""


class Arrays:
    """A source (see `sources.Source`) of clips that are decoded already."""

    def __init__(self, clips: ClipsLike, fps: float):
        self._clips, self._fps = clips, fps

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Frames:
        """Clip `index`.

        Raises:
            UserError: it is no clip.
        """
        array = np.asarray(self._clips[int(index)])
        frames = array[None] if array.ndim == 3 else array
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
            raise UserError(
                f"{self.name(index)} must be {_WANTED}, not {array.dtype} {array.shape}."
            )
        return Frames(self.name(index), frames, self._fps)

    def name(self, index: int) -> str:
        """The clip's number as a name. Which clips are held out depends on it, and so neither on
        the name of the place nor on what the clips show."""
        return f"clip {index}"


_opened: dict[str, Arrays] = {}
_numbers = map(str, itertools.count(1))


def from_arrays(clips: ClipsLike, *, fps: float = 25.0, name: str | None = None) -> str:
    """Makes clips in memory a place of data, which `DataConfig(videos=..)` takes like a folder.

    They go through the pipeline of all data: order, strides, crops, flips, held-out clips and
    resuming are the same. The place is known in this process alone, and keeps the clips in memory
    until the process ends or another call takes the same name.

    Args:
        clips: a list of clips, each uint8 (frames, height, width, 3), or an image (height, width,
            3), of any lengths and sizes; an array (n, frames, height, width, 3); or any object
            whose `len()` is the number of clips and whose `[i]` gives clip i, always the same one.
            Several threads ask it at once; with `DataConfig(workers=..)` it is also pickled and
            sent to other processes.
        fps: frames per second of all clips, which count where `DataConfig.fps` is set.
        name: a name for the place; default: a number. A run that is resumed with the same clips
            may have another name for them.

    Returns:
        The place, `arrays:NAME`.

    Raises:
        UserError: there is no clip, the name can't be one, or a clip is none. Of objects that are
            neither a list, a tuple nor an array, only the first clip is looked at.
    """
    if not (hasattr(clips, "__len__") and hasattr(clips, "__getitem__")) or isinstance(clips, dict):
        raise UserError(f"clips must be a list, or have len() and [i], not {type(clips).__name__}.")
    if not len(clips):
        raise UserError("clips must hold one clip or more; there is none.")
    if isinstance(clips, np.ndarray) and clips.ndim == 4:
        raise UserError(
            f"clips must be a list or have 5 axes, not the array {clips.shape}: [clip] makes one "
            "clip of it, list(images) that many images."
        )
    if not 0 < fps < float("inf"):
        raise UserError(f"fps must be above 0, not {fps}.")
    name = next(_numbers) if name is None else name
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"a name must be letters, digits, '_', '-' and '.', not {name!r}.")
    source = Arrays(clips, fps)
    at_hand = isinstance(clips, list | tuple | np.ndarray)
    for index in range(len(clips) if at_hand else 1):
        source[index]  # raises a UserError where it is no clip
    _opened[name] = source
    return _PREFIX + name


def is_arrays(place: str) -> bool:
    """Whether `from_arrays` made a place."""
    return place.startswith(_PREFIX)


def opened(place: str, kind: MediaKind) -> Arrays:
    """The source of a place, for both kinds of media: a single frame of a clip is an image.

    Raises:
        UserError: this process has no such place.
    """
    source = _opened.get(place.removeprefix(_PREFIX))
    if source is None:
        raise UserError(
            f"{place}: this process has no clips of that name; cvvae_jax.data.from_arrays gives "
            "clips in memory a name, for the process that calls it."
        )
    return source

"""From a path to a clip: a random one to train on, or a fixed one to measure on."""

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import grain
import numpy as np

from cvvae_jax.config import ConfigError
from cvvae_jax.data import video

# So many unreadable files in a row are no accident.
_ATTEMPTS = 20

Record = dict[str, np.ndarray | np.uint32]
"""What a dataset holds: "video", uint8 (frames, size, size, 3), and its own "seed", a uint32."""

_log = logging.getLogger(__name__)
_logged: set[Path] = set()


class RandomClip(grain.transforms.RandomMap):
    """Grain's transform from a path to a record {"video", "seed"}.

    "video" is a uint8 array (frames, size, size, 3), "seed" a uint32 that keys whatever else is
    random about the record later on. Both depend on the record's generator alone. A file that
    cannot be decoded is logged and replaced by another one, drawn from the same generator.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        frames: int,
        size: int,
        max_stride: int,
        short_side: int | None,
    ):
        """Describe the clips.

        Args:
            files: what replacements are drawn from: videos or images.
            frames: length of a clip.
            size: its height and width in pixels.
            max_stride: source frames from one frame of a clip to the next, at most.
            short_side: short side in pixels that videos are resized to before they are cropped;
                `size` where None or smaller. Images are resized to `size`.
        """
        self._files = files
        self._frames = frames
        self._size = size
        self._max_stride = max_stride
        self._short_side = max(short_side or 0, size)

    def random_map(self, element: Path, rng: np.random.Generator) -> Record:
        """The record of a path.

        Raises:
            ConfigError: 20 files in a row cannot be decoded.
        """
        seed = draw_seed(rng)
        others = (self._files[int(rng.integers(len(self._files)))] for _ in itertools.count())
        clip = first_readable(itertools.chain([element], others), lambda path: self._cut(path, rng))
        return {"video": clip, "seed": seed}

    def _cut(self, path: Path, rng: np.random.Generator) -> np.ndarray:
        if video.is_image(path):
            return center_clip(path, frames=self._frames, size=self._size, stride=1, position=0.0)
        count = video.count_frames(path)
        stride = int(rng.integers(largest_stride(count, self._frames, self._max_stride))) + 1
        spare = max(0, count - 1 - stride * (self._frames - 1))
        start = int(rng.integers(spare + 1))
        clip = _held_clip(path, start, stride, self._frames, self._short_side)
        top, left = (int(rng.integers(side - self._size + 1)) for side in clip.shape[1:3])
        return _cropped(clip, top, left, self._size)


def draw_seed(rng: np.random.Generator) -> np.uint32:
    """A record's uint32 seed."""
    return rng.integers(2**32, dtype=np.uint32)


def largest_stride(count: int, frames: int, max_stride: int) -> int:
    """The largest stride up to `max_stride` at which a clip fits into `count` frames, or 1."""
    fitting = (count - 1) // max(frames - 1, 1)
    return max(1, min(max_stride, fitting))


def center_clip(path: Path, *, frames: int, size: int, stride: int, position: float) -> np.ndarray:
    """The clip that nothing random is about: the middle of the frame, its short side `size` pixels.

    Args:
        path: a video or an image.
        frames: length of the clip; the last frame of a shorter video is held.
        size: height and width in pixels.
        stride: source frames from one frame to the next; less where the video is too short for it.
        position: where in the video the clip lies, from 0, its beginning, to 1, its end.

    Returns:
        uint8 array (frames, size, size, 3).

    Raises:
        ConfigError: the file cannot be decoded.
    """
    count = video.count_frames(path)
    stride = largest_stride(count, frames, stride)
    spare = max(0, count - 1 - stride * (frames - 1))
    clip = _held_clip(path, round(position * spare), stride, frames, size)
    top, left = ((side - size) // 2 for side in clip.shape[1:3])
    return _cropped(clip, top, left, size)


def first_readable(paths: Iterable[Path], cut: Callable[[Path], np.ndarray]) -> np.ndarray:
    """The clip of the first path that can be decoded; those before are logged, once for each path.

    Raises:
        ConfigError: none of the first 20 can.
    """
    for path in itertools.islice(paths, _ATTEMPTS):
        try:
            return cut(path)
        except ConfigError as error:
            last = error
            if path not in _logged:
                _logged.add(path)
                _log.warning("A clip is replaced by one of another file: %s", error)
    raise ConfigError(f"{_ATTEMPTS} files in a row could not be decoded; the last one: {last}")


def _held_clip(path: Path, start: int, stride: int, frames: int, short_side: int) -> np.ndarray:
    """Frames start, start + stride, .. of a video; where it has no more, the last one is held."""
    available = min(frames, (video.count_frames(path) - 1 - start) // stride + 1)
    clip = video.read_clip(
        path, start=start, stride=stride, frames=available, short_side=short_side
    )
    return clip[np.minimum(np.arange(frames), available - 1)]


def _cropped(clip: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    return np.ascontiguousarray(clip[:, top : top + size, left : left + size])

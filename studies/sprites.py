"""Moving sprites: clips that say what they show. A sprite of one shape and color moves one way over
a texture; every clip depends on (seed, index) alone, so that there are as many as one wants.

Beside them there are moving photographs, windows that drift over scikit-image's photos, for VAEs
that shall see more than sprites.
"""

import dataclasses
import functools
import importlib.resources
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

Plane = Float[np.ndarray, "h w"]


def _disk(x: Plane, y: Plane) -> Plane:
    return np.hypot(x, y) - 1


def _square(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(x), np.abs(y)) - 0.85


def _triangle(x: Plane, y: Plane) -> Plane:
    return np.maximum(0.866 * np.abs(x) - 0.5 * y, y) - 0.55


def _ring(x: Plane, y: Plane) -> Plane:
    return np.abs(np.hypot(x, y) - 0.75) - 0.25


SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disk": _disk,
    "square": _square,
    "triangle": _triangle,
    "ring": _ring,
}
"""The distance from the border of each shape, negative inside, in units of the sprite's radius."""
COLORS = {
    "red": (220, 50, 40),
    "green": (50, 190, 70),
    "blue": (50, 90, 230),
    "yellow": (235, 215, 50),
}
"""Red, green and blue of each color, around which a clip's own lies."""
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Steps along x and y."""
LABELS = (len(SHAPES), len(COLORS), len(MOTIONS))
"""Number of shapes, of colors and of motions, in the order of labels."""

_PHOTOS = {
    "train": ("astronaut.png", "grass.png", "gravel.png", "motorcycle_left.png", "rocket.jpg"),
    "test": ("chelsea.png", "coffee.png"),
}
_SPLITS = {"train": 0, "classifier": 1, "fit": 2, "test": 3}

Split = Literal["train", "classifier", "fit", "test"]
"""Clips of two splits are never equal: `train` is for VAEs and diffusion models, `classifier` for
the classifier, `fit` for maps between latents, `test` for all measurements."""


@dataclasses.dataclass(frozen=True)
class Sprites:
    """Clips of moving sprites, by number."""

    frames: int
    """Frames of a clip."""
    size: int
    """Height and width in pixels."""
    split: Split = "train"
    """Which of the clips that have nothing in common."""
    seed: int = 0
    """Seed of all clips."""

    def labels(self, numbers: Sequence[int]) -> Int[np.ndarray, "b 3"]:
        """Shape, color and motion of clips, as positions in SHAPES, COLORS and MOTIONS."""
        return np.stack([self._random(number).integers(LABELS) for number in numbers])

    def clips(self, numbers: Sequence[int]) -> UInt8[np.ndarray, "b t h w 3"]:
        """The clips of these numbers."""
        return np.stack([self._clip(number) for number in numbers])

    def _random(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, _SPLITS[self.split], number])

    def _clip(self, number: int) -> UInt8[np.ndarray, "t h w 3"]:
        rng = self._random(number)
        shape, color, motion = rng.integers(LABELS)
        radius = self.size * rng.uniform(0.17, 0.24)
        speed = self.size / 32 * rng.uniform(0.5, 0.9)
        turn = rng.uniform(-0.3, 0.3)
        center = self.size / 2 + self.size * rng.uniform(-0.12, 0.12, size=2)
        own = np.clip(np.asarray(list(COLORS.values())[color]) + rng.normal(0, 12, 3), 0, 255)
        times = np.arange(self.frames) - (self.frames - 1) / 2
        path = center + times[:, None] * speed * np.asarray(list(MOTIONS.values())[motion])
        ground = _texture(rng, self.frames, self.size)
        distance = list(SHAPES.values())[shape]
        cover = [_coverage(distance, at, radius, turn, self.size) for at in path]
        cover = np.stack(cover)[..., None]
        return np.rint(cover * own + (1 - cover) * ground).astype(np.uint8)


def photographs(
    count: int, *, frames: int, size: int, split: Literal["train", "test"], seed: int
) -> UInt8[np.ndarray, "b t h w 3"]:
    """Windows that drift over photos, at most one pixel a frame; the splits share no photo."""
    clips = []
    for number in range(count):
        rng = np.random.default_rng([seed, _SPLITS[split], number])
        photo = _photo(rng.choice(_PHOTOS[split]), int(size * rng.uniform(3, 6)))
        step = rng.uniform(-1, 1, size=2)
        # Starts from which the window stays inside.
        low = np.maximum(0, -step * (frames - 1))
        high = np.array(photo.shape[:2]) - size - np.maximum(0, step * (frames - 1))
        start = rng.uniform(low, np.maximum(low, high))
        clips.append(np.stack([_window(photo, start + t * step, size) for t in range(frames)]))
    return np.stack(clips)


def _coverage(
    distance: Callable[[Plane, Plane], Plane],
    center: np.ndarray,
    radius: float,
    turn: float,
    size: int,
) -> Plane:
    """The share of every pixel that a shape covers, from its center's distance to the border."""
    y, x = np.mgrid[:size, :size] + 0.5
    x, y = x - center[0], y - center[1]
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return np.clip(0.5 - radius * distance(x / radius, y / radius), 0, 1)


def _texture(rng: np.random.Generator, frames: int, size: int) -> Float[np.ndarray, "t h w 3"]:
    """A smooth random texture of muted colors that drifts, at most half a pixel a frame."""
    margin = frames // 2 + 1
    noise = rng.normal(size=(size + 2 * margin, size + 2 * margin, 3))
    gray = noise.mean(axis=2, keepdims=True)
    waves = gaussian_filter(2 * gray + 0.3 * noise, (rng.uniform(1, 2.5),) * 2 + (0,))
    waves = waves / waves.std() * rng.uniform(10, 25) + rng.uniform(90, 150)
    step = rng.uniform(-0.5, 0.5, size=2)
    times = np.arange(frames) - (frames - 1) / 2
    return np.stack([_window(waves, margin + t * step, size) for t in times])


def _window(picture: np.ndarray, start: np.ndarray, size: int) -> np.ndarray:
    """A square of a picture (h, w, 3) from a place between its pixels, bilinearly."""
    rows, columns = (first + np.arange(size) for first in start)
    places = np.meshgrid(rows, columns, indexing="ij")
    channels = [
        map_coordinates(picture[..., c], places, order=1, mode="nearest", output=np.float64)
        for c in range(3)
    ]
    found = np.stack(channels, axis=-1)
    return np.rint(found).astype(np.uint8) if picture.dtype == np.uint8 else found


@functools.lru_cache(maxsize=64)
def _photo(name: str, side: int) -> UInt8[np.ndarray, "h w 3"]:
    """A photo of scikit-image, its short side made to this length."""
    with importlib.resources.files("skimage.data").joinpath(name).open("rb") as file:
        photo = Image.open(file).convert("RGB")
    scale = side / min(photo.size)
    lengths = [max(side, round(length * scale)) for length in photo.size]
    return np.asarray(photo.resize(lengths, Image.Resampling.LANCZOS))

"""Moving photographs: videos made on the fly from the photos in scikit-image, without a download,
and from those of a folder.

A camera drifts, turns and zooms over a photo; a few soft-edged pieces of another photo move in
front of it. Motion is smooth, sub-pixel, and uncovers what was hidden: enough to train a small
video VAE on.
"""

import dataclasses
import functools
import importlib.resources
import math
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from cvvae_jax.config.places import at_home
from cvvae_jax.data.files import Files
from cvvae_jax.video_io.images import read_image

_PHOTOS = {
    "train": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "eval": ("chelsea.png", "coffee.png"),
}

# Neighboring levels of a photo's pyramid differ by this factor: a pixel of the clip is 0.84 to 1.19
# pixels of the level it is read from, where bilinear sampling neither aliases nor blurs much.
_LEVEL_STEP = math.sqrt(2)

# Photos of a folder are reduced to this short side, and so many of them are kept in memory: 0.5 GB
# with the levels of their pyramids.
_SHORT_SIDE = 512
_KEPT = 256

# Oscillations of camera and patches take this many frames, drawn per motion.
_PERIODS = (24, 120)

# The `speed` of the camera and patches is stated for clips of this size.
_REFERENCE_SIZE = 64


class MovingPhotographs:
    """A random-access source of clips; a clip depends on (seed, index) alone.

    The splits "train" and "eval" have no photo in common: those of a folder are all trained on.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "eval"],
        frames: int,
        size: int,
        length: int,
        seed: int,
        speed: float = 1.5,
        photos: str | None = None,
    ):
        """Describe the clips; photos are read when the first one is asked for.

        Args:
            split: which photos are shown.
            frames: frames of a clip; 1 makes images.
            size: height and width of a clip, in pixels.
            length: number of clips.
            seed: seed of all clips.
            speed: the camera's largest speed, in pixels a frame in a clip of 64x64 pixels, and in
                proportion in others; 0 makes stills. Patches move up to a third faster.
            photos: a folder, searched recursively, with photos to train on beside scikit-image's.

        Raises:
            UserError: there are no photos in the folder.
        """
        self._names = _PHOTOS[split]
        if photos is not None and split == "train":
            self._names += _photos_of(photos)
        self._frames = frames
        self._size = size
        self._length = length
        self._seed = seed
        self._speed = speed * size / _REFERENCE_SIZE

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> np.ndarray:
        """Clip `index` as a uint8 array (frames, size, size, 3)."""
        rng = np.random.default_rng([self._seed, index])
        names = self._names
        background, other = rng.choice(len(names), size=2, replace=False)
        camera = _draw_camera(rng, names[background], self._frames, self._size, self._speed)
        patches = [
            _draw_patch(rng, names[other], self._frames, self._size, self._speed * 4 / 3)
            for _ in range(rng.integers(1, 4))
        ]
        clip = np.empty((self._frames, self._size, self._size, 3), np.uint8)
        for i in range(self._frames):
            frame = camera.frame(i, size=self._size)
            for patch in patches:
                patch.paste(frame, i)
            clip[i] = np.asarray(frame)
        return clip


@dataclasses.dataclass(frozen=True)
class _Camera:
    """A window that moves over a photo: its center (x, y), turn and size in pixels of the photo."""

    photo: Image.Image
    center: np.ndarray
    angle: np.ndarray
    width: np.ndarray
    mirrored: bool

    def frame(self, index: int, *, size: int) -> Image.Image:
        """What the window shows, `size` pixels high and wide."""
        step = self.width[index] / size
        flip = -1 if self.mirrored else 1
        return _sample(self.photo, self.center[index], self.angle[index], step, size, flip=flip)


@dataclasses.dataclass(frozen=True)
class _Patch:
    """A soft-edged cutout (RGBA) that moves over the clip: its center (x, y) there, and turn."""

    cutout: Image.Image
    center: np.ndarray
    angle: np.ndarray

    def paste(self, frame: Image.Image, index: int) -> None:
        """Draw the patch into a frame."""
        side = self.cutout.width
        corner = np.floor(self.center[index] - side / 2)
        # Pasting is by whole pixels: the rest of the position goes into the resampling.
        rest = self.center[index] - side / 2 - corner
        turned = _sample(self.cutout, side / 2 - rest, self.angle[index], 1.0, side)
        frame.paste(turned, tuple(corner.astype(int)), mask=turned)


def _draw_camera(
    rng: np.random.Generator, name: str, frames: int, size: int, speed: float
) -> _Camera:
    """A camera that never leaves the photo: `speed` is in pixels of the clip, at most."""
    extent = np.array(_photo(name).size)
    # At these amplitudes the frame's corners move about as fast as its center.
    swing = min(0.12, 8 * speed / size)
    angle = rng.uniform(-0.2, 0.2) + _swing(rng, frames, swing * rng.uniform())
    zoom = np.exp(_swing(rng, frames, swing * rng.uniform()))
    # The box around the turned and zoomed window, as a multiple of the window's mean width.
    box = (zoom * (np.abs(np.cos(angle)) + np.abs(np.sin(angle)))).max()
    largest = (extent.min() - 2) / box
    smallest = min(size, 0.6 * largest)
    width = smallest * (0.95 * largest / smallest) ** rng.uniform()
    room = (extent - 2 - width * box) / 2
    drift = _drift(rng, frames, speed * rng.uniform()) * width / size
    # A path longer than the photo is shortened, and so is its speed.
    reach = np.maximum(np.abs(drift).max(axis=0), 1e-9)
    drift *= np.minimum(1, room / reach)
    reach = np.minimum(reach, room)
    center = extent / 2 + rng.uniform(-1, 1, 2) * (room - reach) + drift
    photo, scale = _level(name, width / size)
    return _Camera(photo, center * scale, angle, width * zoom * scale.min(), rng.random() < 0.5)


def _draw_patch(
    rng: np.random.Generator, name: str, frames: int, size: int, speed: float
) -> _Patch:
    side = max(2, round(size * rng.uniform(0.3, 0.65)))
    extent = np.array(_photo(name).size)
    step = rng.uniform(0.2, 0.6) * extent.min() / side
    photo, scale = _level(name, step)
    half = step * side / 2
    center = rng.uniform(half, np.maximum(extent - half, half + 1e-6))
    cutout = _sample(photo, center * scale, 0.0, step * scale.min(), side)
    cutout.putalpha(_soft_blob(rng, side))
    path = rng.uniform(0.1, 0.9, 2) * size + _drift(rng, frames, speed * rng.uniform())
    swing = min(0.5, 16 * speed / size)
    angle = rng.uniform(0, 2 * np.pi) + _swing(rng, frames, swing * rng.uniform())
    return _Patch(cutout, path, angle)


def _swing(rng: np.random.Generator, frames: int, amplitude: float) -> np.ndarray:
    """A sinusoid (frames,) of random phase, as fast in a short clip as in a long one."""
    period = rng.uniform(*_PERIODS)
    return amplitude * np.sin(2 * np.pi * (np.arange(frames) / period + rng.uniform()))


def _drift(rng: np.random.Generator, frames: int, speed: float) -> np.ndarray:
    """A smooth path (frames, 2) from 0 in a random direction, of at most `speed` a frame."""
    direction = rng.uniform(0, 2 * np.pi)
    paths = []
    for share in (np.cos(direction), np.sin(direction)):
        period = rng.uniform(*_PERIODS)
        phase = rng.uniform(0, 2 * np.pi)
        time = 2 * np.pi * np.arange(frames) / period
        paths.append(speed * share * period / (2 * np.pi) * (np.sin(time + phase) - np.sin(phase)))
    return np.stack(paths, axis=-1)


def _soft_blob(rng: np.random.Generator, side: int) -> Image.Image:
    """A mask (side, side): an oval with bumps, opaque inside and fading out before the border."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    x, y = x * rng.uniform(1, 1.6), y * rng.uniform(1, 1.6)
    bumps = 0.12 * np.cos(rng.integers(2, 5) * np.arctan2(y, x) + rng.uniform(0, 2 * np.pi))
    inside = 0.8 + bumps - np.hypot(x, y)
    return Image.fromarray((255 * np.clip(inside / 0.15, 0, 1)).astype(np.uint8))


def _sample(
    image: Image.Image,
    center: np.ndarray,
    angle: float,
    step: float,
    size: int,
    *,
    flip: int = 1,
) -> Image.Image:
    """A turned square of an image around a point (x, y), `step` pixels of the image to a pixel."""
    cos, sin = step * math.cos(angle), step * math.sin(angle)
    x = center[0] - (flip * cos - sin) * size / 2
    y = center[1] - (flip * sin + cos) * size / 2
    affine = (flip * cos, -sin, x, flip * sin, cos, y)
    return image.transform(
        (size, size), Image.Transform.AFFINE, affine, resample=Image.Resampling.BILINEAR
    )


def _photos_of(folder: str) -> tuple[str, ...]:
    """The paths of a folder's photos, in a fixed order."""
    files = Files(at_home(folder), "image")
    return tuple(str(Path(files.name(number)).absolute()) for number in range(len(files)))


@functools.lru_cache(_KEPT)
def _photo(name: str) -> Image.Image:
    """A photo of scikit-image by its name, or one of a folder by its absolute path."""
    if Path(name).is_absolute():
        return _photo_of_file(name)
    with importlib.resources.files("skimage").joinpath("data", name).open("rb") as file:
        return Image.open(file, formats=("PNG", "JPEG")).convert("RGB")


def _photo_of_file(path: str) -> Image.Image:
    photo = Image.fromarray(read_image(path))
    scale = _SHORT_SIDE / min(photo.size)
    if scale >= 1:
        return photo
    return photo.resize([round(side * scale) for side in photo.size], Image.Resampling.BOX)


def _level(name: str, step: float) -> tuple[Image.Image, np.ndarray]:
    """The photo, reduced by area so that steps of `step` pixels do not alias; its scale (x, y)."""
    number = round(math.log(max(step, 1), _LEVEL_STEP))
    image = _reduced(name, number)
    return image, np.array(image.size) / np.array(_photo(name).size)


@functools.lru_cache(4 * _KEPT)
def _reduced(name: str, number: int) -> Image.Image:
    photo = _photo(name)
    size = [max(1, round(side / _LEVEL_STEP**number)) for side in photo.size]
    return photo.resize(size, Image.Resampling.BOX)

"""Settings of training data: the shapes of batches, where clips come from, and how they are cut."""

import dataclasses
import math
from typing import Literal

from cvvae_jax.config.checks import at_least
from cvvae_jax.config.places import expand_home
from cvvae_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Bucket:
    """One shape of training batches; a training step is compiled for every bucket."""

    frames: int
    """Frames of a clip: 1 for images, otherwise 1 plus a multiple of the temporal compression."""
    size: int | tuple[int, int]
    """Height and width in pixels: one number for both, or (height, width)."""
    batch: int
    """Clips in the global batch, over all devices."""
    weight: float = 1.0
    """How often a step uses this bucket, relative to the other buckets."""

    def __post_init__(self):
        at_least(self, 1, "frames", "height", "width", "batch")
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"a bucket's weight must be above 0, not {self.weight}.")

    @property
    def kind(self) -> Literal["image", "video"]:
        """The kind of media that fills the bucket: images if clips have one frame."""
        return "image" if self.frames == 1 else "video"

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.size if isinstance(self.size, int) else self.size[1]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where clips come from, and how they are cut.

    A place is a folder, which is searched recursively; a pattern such as `clips/**/*.mp4`; a list
    (.csv or .jsonl with a column `path`); ArrayRecord or tar shards, or the folder that they are
    in; `tfds:NAME`; or, in Python, what `cvvae_jax.data.from_arrays` returns. Without any place,
    moving photographs are made on the fly.
    """

    videos: str | None = None
    """The place of the videos; if unset, moving photographs are made."""
    images: str | None = None
    """The place of the images; if unset, single frames of the videos are taken."""
    photos: str | None = None
    """A folder of photos to make moving photographs of, beside scikit-image's; without effect where
    `videos` or `images` is set."""
    eval_videos: str | None = None
    """The place of unseen videos to measure on; if unset, one video and one image in ten are held
    out of training."""
    exclude: str | None = None
    """A file with names of media to leave out, one per line, as the command `data check` writes
    it."""
    eval_clips: int = 16
    """Number of unseen clips that an evaluation measures."""
    min_stride: int = 1
    """Smallest distance between neighboring frames of a clip, in frames of the video (released:
    1)."""
    max_stride: int = 8
    """Largest such distance. One is drawn for every clip, among those for which the video is long
    enough (released: 8)."""
    fps: tuple[float, float] | None = None
    """Instead of strides: a range from which a clip's frames per second are drawn. A clip never has
    more than its video has, and it has more than drawn where the video would be too short."""
    short_side: int | None = None
    """Videos are resized so that their short side has this many pixels, then cropped; if unset or
    too small, they are resized so that they just cover the crop (released: 512)."""
    crop: Literal["random", "center"] = "random"
    """The part of a video's frame that is taken; images are cropped in the middle (released:
    random)."""
    flip: bool = False
    """Whether a random half of the clips is mirrored, left for right."""
    reverse: bool = False
    """Whether a random half of the clips runs backward."""
    recolor: bool = False
    """Whether a random half of the clips gets other colors, and a third of them plain rectangles of
    saturated colors, so that all hues are learned."""
    max_bad: float = 0.1
    """The largest share of records that may fail to decode; another record replaces each. A run
    stops when more have failed, of at least 200."""
    workers: int = 0
    """Number of processes that decode; with 0, threads of the main process decode."""
    threads: int = 2
    """Number of threads that decode, in every process."""

    def __post_init__(self):
        expand_home(self, "videos", "images", "photos", "eval_videos", "exclude")
        at_least(self, 1, "eval_clips", "min_stride", "max_stride", "threads")
        at_least(self, 0, "workers", "max_bad")
        if self.short_side is not None:
            at_least(self, 1, "short_side")
        if self.min_stride > self.max_stride:
            raise ConfigError(
                f"min_stride is {self.min_stride}, more than max_stride, {self.max_stride}."
            )
        if self.fps is not None and not 0 < self.fps[0] <= self.fps[1] < math.inf:
            low, high = self.fps
            raise ConfigError(f"fps must be a range of rates above 0, not {low} to {high}.")

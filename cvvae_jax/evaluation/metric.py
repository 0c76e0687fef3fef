"""What a metric is: a row of the table of metrics, its figures, and its network."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np

Arrays = dict[str, np.ndarray]
"""The arrays that are measured of one clip, by name."""

Kind = Literal["frames", "clip", "clip_features", "frame_features", "latents", "built_in"]
"""How the function of a metric is called:

- `frames`: function(recon, video) compares frames, both float32 (b, 1, h, w, 3) in [-1, 1], and
  gives (b, 1). It is compiled, and runs on batches of frames on all devices.
- `clip`: function(recon, video) compares a whole clip, both uint8 (t, h, w, 3), and gives a NumPy
  array. It runs on the host.
- `clip_features`: function(network, video) gives the features of a clip, (1, t, h, w, 3) in
  [-1, 1], as (1, d). Inputs and reconstructions are compared by Frechet distance over all clips.
- `frame_features`: function(network, video) gives the features of frames, (b, 1, h, w, 3), as
  (b, 1, d), which are compared likewise.
- `latents`: function(latents, number) measures the latents of a clip, the mode of a model's
  posterior, float32 (n, y, x, z), and gives a NumPy array; the number is the clip's in the data,
  which seeds draws. It runs on the host; baselines have no latents.
- `built_in`: the row has no function; `evaluation.measure` or `evaluation.compatibility` computes
  its figures together.

With a network, the functions of `frames` take it as their first argument.
"""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number that contenders are compared by, as tables show it."""

    key: str
    label: str
    unit: str
    better: Literal["higher", "lower", "one"]
    """Which of two values is better; `one`: the value that is nearer to 1."""
    digits: int
    """Digits after the decimal point."""
    group: Literal["frames", "time", "latents", "distribution"]
    """The part of the table that shows it."""
    description: str
    of_clip: Callable[[Arrays], float | None] | None = None
    """Computes the figure from the arrays of a clip, and gives None where they lack it. Unset: the
    mean of the array called `key`, or, in the group `distribution`, the Frechet distance."""
    of_all: Callable[[Iterable[Arrays]], float | None] | None = None
    """Computes a figure of the data set as a whole from the arrays of all clips, and gives None
    where they lack it; no clip has a value then."""

    def value(self, arrays: Arrays) -> float | None:
        """The figure of a clip; None where it was not measured."""
        return self.of_clip(arrays) if self.of_clip else mean(arrays.get(self.key))

    @property
    def is_per_clip(self) -> bool:
        """Whether each clip has a value, rather than the data set as a whole."""
        return self.group != "distribution" and self.of_all is None

    def record(self) -> dict[str, Any]:
        """The figure's entry in results.json."""
        fields = {field.name for field in dataclasses.fields(self)} - {"of_clip", "of_all"}
        return {name: getattr(self, name) for name in sorted(fields)}


@dataclasses.dataclass(frozen=True)
class Network:
    """The network of a metric, and the options of `evaluate` that name its weights."""

    model_class: type
    option: str
    heads_option: str | None = None
    """The option for LPIPS' heads, which may be in a file of their own."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """Something that a protocol can ask for by name."""

    name: str
    kind: Kind
    figures: tuple[Figure, ...] = ()
    """The figures of the metric, in the order of tables; a metric with a function has one whose key
    is the metric's name."""
    function: Callable[..., Any] | None = None
    """Measures; `Kind` says what it is given."""
    smallest: int = 1
    """The least height and width of frames, in pixels, that the metric is defined on."""
    shortest: int = 1
    """The least number of frames of a clip that the metric is defined on."""
    network: Network | None = None
    """The network that the metric needs; without weights for it the metric is not measured."""
    array: str | None = None
    """Name of the array that is kept of every clip; unset: the metric's name."""
    definition: int = 1
    """The value of `DEFINITIONS` since which the metric is defined as it is now."""

    @property
    def label(self) -> str:
        """The metric's name in messages: that of the figure of the same key, if there is one."""
        return next((f.label for f in self.figures if f.key == self.name), self.name)

    def is_defined_on(self, frames: int, height: int, width: int) -> bool:
        """Whether the metric is defined on clips of this size."""
        return min(height, width) >= self.smallest and frames >= self.shortest


def mean(values: np.ndarray | None) -> float | None:
    """The mean of all values; None without any."""
    if values is None or not np.size(values):
        return None
    return float(np.mean(values, dtype=np.float64))

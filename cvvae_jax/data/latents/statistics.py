"""Mean and standard deviation of every channel of latents, summed up in any number of parts."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Sums:
    """What one part of the data adds, in float64; lists have an entry a channel."""

    count: int
    """Places: latent frames times rows times columns."""
    first: list[float]
    """Sums of the latents; of a posterior, of its means."""
    second: list[float]
    """Sums of their squares; of a posterior, of the expected ones: variance and squared mean."""

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "Sums":
        """Of a record's arrays (n, y, x, z): `latents`, or `mean` and `logvar`."""
        first = arrays["latents" if "latents" in arrays else "mean"].astype(np.float64)
        second = np.square(first)
        if "logvar" in arrays:
            second += np.exp(arrays["logvar"].astype(np.float64))
        places = tuple(range(first.ndim - 1))
        return cls(
            math.prod(first.shape[:-1]), first.sum(places).tolist(), second.sum(places).tolist()
        )

    @classmethod
    def added(cls, parts: Iterable["Sums"]) -> "Sums":
        """Of all parts together: exactly rounded, so in whichever order they come."""
        parts = list(parts)
        return cls(
            sum(part.count for part in parts),
            [math.fsum(values) for values in zip(*(part.first for part in parts), strict=True)],
            [math.fsum(values) for values in zip(*(part.second for part in parts), strict=True)],
        )

    @property
    def mean(self) -> list[float]:
        """Of every channel."""
        return [value / self.count for value in self.first]

    @property
    def std(self) -> list[float]:
        """Of every channel; of a posterior, that of samples of it."""
        pairs = zip(self.mean, self.second, strict=True)
        return [math.sqrt(max(second / self.count - mean**2, 0.0)) for mean, second in pairs]

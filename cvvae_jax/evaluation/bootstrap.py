"""How sure a mean over clips is."""

import numpy as np
from scipy.special import ndtr, stdtrit

RESAMPLES = 10_000
"""Times that clips are drawn anew."""
LEVEL = 0.95
"""Share of all intervals that hold the mean of all clips there could be."""
FEWEST = 6
"""Clips that an interval takes: of fewer, no redrawing has a mean beyond the true one often
enough."""


def mean_interval(
    values: np.ndarray, *, seed: int = 0
) -> tuple[float | None, float | None, float | None]:
    """The mean over clips and the ends of its bootstrap interval; None for what the clips don't
    allow.

    Clips, the independent draws, are redrawn with replacement. Quantiles of the means are taken
    further out than 2.5 % by Student's t and by n / (n - 1), or intervals of few clips would be too
    narrow: the expanded percentile interval (Hesterberg 2015, "What Teachers Should Know About the
    Bootstrap").

    Args:
        values: (clips,); NaN where a clip has none.
        seed: of the draws.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    count = len(values)
    if count < FEWEST:
        return (float(values.mean()) if count else None), None, None
    rng = np.random.default_rng(seed)
    # In parts: ten thousand draws of ten thousand clips would take 800 MB.
    parts = max(1, count * RESAMPLES // 10_000_000)
    means = [
        values[rng.integers(count, size=(draws, count))].mean(axis=1)
        for draws in np.full(parts, RESAMPLES // parts)
    ]
    out = stdtrit(count - 1, (1 - LEVEL) / 2) * np.sqrt(count / (count - 1))
    low, high = np.quantile(np.concatenate(means), [ndtr(out), ndtr(-out)])
    return float(values.mean()), float(low), float(high)

"""How sure a mean over clips is."""

import numpy as np

RESAMPLES = 10_000
"""Times that clips are drawn anew."""
LEVEL = 0.95
"""Share of the means of redrawn clips that an interval holds."""


def mean_interval(
    values: np.ndarray, *, seed: int = 0
) -> tuple[float | None, float | None, float | None]:
    """The mean over clips and the ends of its percentile bootstrap interval (Efron 1979).

    Clips, the independent draws, are redrawn with replacement; with a single clip there is no
    interval. The same seed redraws the same clips for every contender and metric.

    Args:
        values: (clips,); NaN where a clip has none.
        seed: of the draws.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return None, None, None
    mean = float(values.mean())
    if len(values) == 1:
        return mean, None, None
    rng = np.random.default_rng(seed)
    # In parts: ten thousand draws of ten thousand clips would take 800 MB.
    parts = max(1, len(values) * RESAMPLES // 10_000_000)
    means = [
        values[rng.integers(len(values), size=(count, len(values)))].mean(axis=1)
        for count in np.full(parts, RESAMPLES // parts)
    ]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return mean, float(low), float(high)

"""From the measurements of every clip to the figures of a table, with confidence intervals."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.compatibility import summarize_compatibility
from cvvae_jax.evaluation.latents import FEATURES_OF
from cvvae_jax.evaluation.metrics import METRICS, Arrays, all_figures, metrics_of
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.evaluation.store import INPUT
from cvvae_jax.metrics.frechet import FeatureStatistics, frechet_distance
from cvvae_jax.metrics.image import psnr_of
from cvvae_jax.metrics.time import by_position, frequencies

RESAMPLES = 10_000
"""How often the clips are redrawn with replacement."""
LEVEL = 0.95
"""Confidence level: the share of all intervals that hold the true mean."""
FEWEST = 6
"""The least number of clips that an interval is computed from: with fewer, redrawn means reach
beyond the true one too rarely."""


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


COMPATIBILITY = "compatibility/"
"""Begins the names of the arrays that compatibility is summarized from."""

Read = Callable[[str], Iterator[Arrays]]
"""Reads the arrays that were measured of a contender, clip by clip, in the clips' order."""

ReadBetween = Callable[[str], Arrays]
"""Reads the features (n, d) of what a contender decodes between clips, by metric."""


def summarize(
    read: Read,
    names: Sequence[str],
    protocol: Protocol,
    *,
    group: int,
    read_between: ReadBetween | None = None,
) -> dict[str, Any]:
    """Summarizes all contenders: `metrics`, `scores`, `paired`, `series`, `compatibility`.

    Args:
        read: reads the arrays of a contender.
        names: the contenders; differences are taken against the first one.
        protocol: settings of the measurement.
        group: frames of a latent frame after the first, the period of `psnr_by_group_position`.
        read_between: reads what was decoded between clips; None where nothing was.
    """
    parts = {name: _contender(read, name, protocol, group=group) for name in names}
    if read_between is not None:
        for name, part in parts.items():
            part["scores"] |= _distances_between(read, read_between(name))
    values = {name: part["values"] for name, part in parts.items()}
    shown = [f for f in all_figures() if any(f.key in part["scores"] for part in parts.values())]
    return {
        "reference": names[0],
        "metrics": [figure.record() for figure in shown],
        "scores": {name: part["scores"] for name, part in parts.items()},
        "paired": {name: _paired(values[name], values[names[0]]) for name in names[1:]},
        "series": {name: part["series"] for name, part in parts.items()},
        "compatibility": {
            name: part["compatibility"] for name, part in parts.items() if part["compatibility"]
        },
    }


def _contender(read: Read, name: str, protocol: Protocol, *, group: int) -> dict[str, Any]:
    figures = [figure for figure in all_figures() if figure.is_per_clip]
    values: dict[str, list[float | None]] = {figure.key: [] for figure in figures}
    psnrs, spectra, compatibility = [], [], []
    for arrays in read(name):
        for figure in figures:
            value = figure.value(arrays)
            if value is not None and not np.isfinite(value):
                raise UserError(f"{figure.label} of {name} is {value} on a clip.")
            values[figure.key].append(value)
        if "mse" in arrays:
            psnrs.append(psnr_of(np.asarray(arrays["mse"], np.float64)))
        if "spectrum" in arrays:
            spectra.append(np.asarray(arrays["spectrum"], np.float64))
        own = {k: v for k, v in arrays.items() if k.startswith(COMPATIBILITY)}
        if own:
            compatibility.append({k.removeprefix(COMPATIBILITY): v for k, v in own.items()})
    values = {key: own for key, own in values.items() if any(v is not None for v in own)}
    scores = {key: _score(own) for key, own in values.items()}
    return {
        "values": values,
        "scores": scores | _of_all(read, name, protocol) | _distances(read, name),
        "series": _series(psnrs, spectra, protocol, group=group),
        "compatibility": summarize_compatibility(compatibility) if compatibility else None,
    }


def _score(values: list[float | None]) -> dict[str, Any]:
    value, low, high = mean_interval(_floats(values))
    return {"value": value, "low": low, "high": high, "clips": values}


def _paired(own: dict[str, list], other: dict[str, list]) -> dict[str, Any]:
    """Mean differences of figures, from differences clip by clip, with their intervals."""
    found = {}
    for key in (key for key in own if key in other):
        difference, low, high = mean_interval(_floats(own[key]) - _floats(other[key]))
        if difference is not None:
            found[key] = {"difference": difference, "low": low, "high": high}
    return found


def _floats(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


def _of_all(read: Read, name: str, protocol: Protocol) -> dict[str, Any]:
    """Figures that all clips have together."""
    metrics = [METRICS[key] for key in METRICS if key in protocol.metrics]
    found = {
        figure.key: figure.of_all(read(name))
        for metric in metrics
        for figure in metric.figures
        if figure.of_all is not None
    }
    return {key: _without_interval(value) for key, value in found.items() if value is not None}


def _without_interval(value: float) -> dict[str, Any]:
    return {"value": value, "low": None, "high": None, "clips": None}


def _distances(read: Read, name: str) -> dict[str, Any]:
    """Frechet distances between the features of clips and of their reconstructions."""
    found = {}
    for key in (metric.name for metric in metrics_of("clip_features", "frame_features")):
        ours, theirs = (_statistics(read(whose), key) for whose in (name, INPUT))
        if min(ours.count, theirs.count) > 1:
            found[key] = _without_interval(frechet_distance(ours, theirs))
    return found


def _distances_between(read: Read, between: Arrays) -> dict[str, Any]:
    """Frechet distances between the features of clips and of what was decoded between them."""
    found = {}
    for key, features in FEATURES_OF.items():
        ours, theirs = _statistics([between], features), _statistics(read(INPUT), features)
        if min(ours.count, theirs.count) > 1:
            found[key] = _without_interval(frechet_distance(ours, theirs))
    return found


def _statistics(clips: Iterable[Arrays], key: str) -> FeatureStatistics:
    statistics = FeatureStatistics()
    for arrays in clips:
        if key in arrays:
            statistics.add(np.atleast_2d(arrays[key]))
    return statistics


def _series(
    psnrs: list[np.ndarray], spectra: list[np.ndarray], protocol: Protocol, *, group: int
) -> dict[str, Any]:
    found = {}
    if psnrs:
        found["psnr_over_time"] = _over_time(psnrs)
        found["psnr_by_group_position"] = _by_position(psnrs, group)
        found["psnr_by_chunk_position"] = _by_position(psnrs, protocol.chunk_frames)
    if spectra:
        found["spectrum"] = {
            "frequencies": frequencies(protocol.spectrum_window).tolist(),
            "power": np.mean(spectra, axis=0).tolist(),
        }
    return found


def _over_time(series: list[np.ndarray]) -> list[float]:
    """Means over the clips, frame by frame, up to the median length of clips. Shorter clips are
    left out altogether: a curve would jump where they end."""
    length = int(np.ceil(np.median([len(values) for values in series])))
    return np.mean([v[:length] for v in series if len(v) >= length], axis=0).tolist()


def _by_position(series: list[np.ndarray], period: int) -> list[float | None]:
    """Means over frames of a position, then over the clips that have all positions that half of
    the clips have; None for the others."""
    means = np.stack([by_position(values[None], period) for values in series])
    shown = np.isfinite(means).mean(axis=0) >= 0.5
    whole = means[np.isfinite(means[:, shown]).all(axis=1)]
    return [float(whole[:, i].mean()) if shown[i] else None for i in range(len(shown))]

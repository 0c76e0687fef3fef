"""From what was measured of every clip to the figures of a table, on the host in float64."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from cvvae_jax.config import ConfigError
from cvvae_jax.evaluation.bootstrap import mean_interval
from cvvae_jax.evaluation.compatibility import summarize_compatibility
from cvvae_jax.evaluation.figures import FIGURES
from cvvae_jax.evaluation.measure import Arrays
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.evaluation.store import INPUT
from cvvae_jax.metrics.frechet import Statistics, frechet_distance
from cvvae_jax.metrics.image import psnr_of
from cvvae_jax.metrics.time import by_position, frequencies

COMPATIBILITY = "compatibility/"
"""What the names of arrays begin with that compatibility is made from."""
_DISTRIBUTIONS = ("fvd", "fid")

Read = Callable[[str], Iterator[Arrays]]
"""What was measured of a contender, clip by clip, in the clips' order."""


def summarize(
    read: Read, names: Sequence[str], protocol: Protocol, *, group: int
) -> dict[str, Any]:
    """The figures of all contenders: `metrics`, `scores`, `paired`, `series`, `compatibility`.

    Args:
        read: gives what was measured.
        names: of the contenders; the first one is what differences are taken against.
        protocol: what was measured.
        group: frames of a latent frame, that positions are told by.
    """
    parts = {name: _contender(read, name, protocol, group=group) for name in names}
    values = {name: part["values"] for name, part in parts.items()}
    shown = [f for f in FIGURES if any(f.key in part["scores"] for part in parts.values())]
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
    values: dict[str, list[float | None]] = {f.key: [] for f in FIGURES if f.of_clip}
    psnrs, spectra, compatibility = [], [], []
    for arrays in read(name):
        for figure in FIGURES:
            if figure.of_clip:
                value = figure.of_clip(arrays)
                if value is not None and not np.isfinite(value):
                    raise ConfigError(f"{figure.label} of {name} is {value} on a clip.")
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
        "scores": scores | _distances(read, name),
        "series": _series(psnrs, spectra, protocol, group=group),
        "compatibility": summarize_compatibility(compatibility) if compatibility else None,
    }


def _score(values: list[float | None]) -> dict[str, Any]:
    value, low, high = mean_interval(_floats(values))
    return {"value": value, "low": low, "high": high, "clips": values}


def _paired(own: dict[str, list], other: dict[str, list]) -> dict[str, Any]:
    """Differences, clip by clip."""
    found = {}
    for key in (key for key in own if key in other):
        difference, low, high = mean_interval(_floats(own[key]) - _floats(other[key]))
        if difference is not None:
            found[key] = {"difference": difference, "low": low, "high": high}
    return found


def _floats(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


def _distances(read: Read, name: str) -> dict[str, Any]:
    """Between the clips' features and those of their reconstructions."""
    found = {}
    for key in _DISTRIBUTIONS:
        ours, theirs = Statistics(), Statistics()
        for statistics, whose in ((ours, name), (theirs, INPUT)):
            for arrays in read(whose):
                if key in arrays:
                    statistics.add(np.atleast_2d(arrays[key]))
        if min(ours.count, theirs.count) > 1:
            distance = frechet_distance(ours, theirs)
            found[key] = {"value": distance, "low": None, "high": None, "clips": None}
    return found


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
    """Means over the clips that last as long as half of all do, so far: the same ones at every
    frame, or a curve would jump where clips end."""
    length = int(np.ceil(np.median([len(values) for values in series])))
    return np.mean([v[:length] for v in series if len(v) >= length], axis=0).tolist()


def _by_position(series: list[np.ndarray], period: int) -> list[float | None]:
    """Means over frames of a position, then over the clips that have all positions that half of
    the clips have; None for the others."""
    means = np.stack([by_position(values[None], period) for values in series])
    shown = np.isfinite(means).mean(axis=0) >= 0.5
    whole = means[np.isfinite(means[:, shown]).all(axis=1)]
    return [float(whole[:, i].mean()) if shown[i] else None for i in range(len(shown))]

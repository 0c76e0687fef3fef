"""Figures of a model's latents: their spectra, the variance of the velocity, and what a model
decodes between neighbors. These are rows of the table of metrics."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from cvvae_jax.codec.values import Latents
from cvvae_jax.evaluation.metric import Arrays, Figure, Metric
from cvvae_jax.metrics import diffusability
from cvvae_jax.metrics.latents import patches

PATCH = 2
"""Height and width of a patch of latents: what diffusion transformers take for one token."""
PATCHES = 128
"""Patches of a clip."""
SAMPLES = 1000
"""Patches of each half of the clips that the variance of the velocity is computed from, at most."""
FEATURES_OF = {"ifid": "fid", "ifvd": "fvd"}
"""The figures of what lies between neighbors, each with the metric whose features it compares."""


def _space(latents: Float[np.ndarray, "n y x z"], number: int) -> np.ndarray:
    return diffusability.spatial_spectrum(latents)


def _time(latents: Float[np.ndarray, "n y x z"], number: int) -> np.ndarray:
    return diffusability.temporal_spectrum(latents)


def _patches(latents: Float[np.ndarray, "n y x z"], number: int) -> np.ndarray:
    return patches(latents, size=PATCH, count=PATCHES, seed=number)


def _whole(latents: Float[np.ndarray, "n y x z"], number: int) -> np.ndarray:
    return latents


def _fine_share(name: str) -> Callable[[Arrays], float | None]:
    def figure(arrays: Arrays) -> float | None:
        share = diffusability.fine_share(arrays[name]) if name in arrays else float("nan")
        return share if np.isfinite(share) else None

    return figure


def _halves(clips: Iterable[Arrays]) -> list[np.ndarray]:
    """Patches of every other clip and those of the others, evenly thinned; nothing where clips
    have none."""
    found = [arrays["latent_patches"] for arrays in clips if "latent_patches" in arrays]
    halves = [np.concatenate(found[start::2]) for start in (0, 1) if found[start::2]]
    return [
        rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLES)).round().astype(int)]
        for rows in halves
        if len(rows) > 1 and rows.std(axis=0).any()
    ]


def _velocity_variance(clips: Iterable[Arrays]) -> float | None:
    halves = _halves(clips)
    if len(halves) < 2:
        return None
    ways = (halves, halves[::-1])
    return float(np.mean([diffusability.velocity_variance(*way) for way in ways]))


def _gaussian_velocity_variance(clips: Iterable[Arrays]) -> float | None:
    halves = _halves(clips)
    if len(halves) < 2:
        return None
    return diffusability.gaussian_velocity_variance(np.concatenate(halves))


ROWS = (
    Metric(
        "latent_spectrum",
        "latents",
        (
            Figure(
                *("latent_spectrum", "Fine detail of latents", "", "lower", 3, "latents"),
                "Share of the variance within latent frames whose waves are four latents long or "
                "shorter; 0.8 is white noise. Diffusion models are held to learn smooth latents "
                "more easily.",
                _fine_share("latent_spectrum"),
            ),
        ),
        _space,
    ),
    Metric(
        "latent_motion",
        "latents",
        (
            Figure(
                *("latent_motion", "Fast change of latents", "", "lower", 3, "latents"),
                "Share of the variance over time whose waves are four latent frames long or "
                "shorter; 0.5 is white noise. Clips of a single latent frame have none.",
                _fine_share("latent_motion"),
            ),
        ),
        _time,
    ),
    Metric(
        "velocity_variance",
        "latents",
        (
            Figure(
                *("velocity_variance", "Velocity variance", "", "lower", 3, "latents"),
                "Variance of rectified flow's velocity that no model can explain from a noised "
                "patch of 2 x 2 latents, per value, in units of the latents' mean variance; an "
                "upper bound, which falls with the number of clips.",
                of_all=_velocity_variance,
            ),
            Figure(
                *("gaussian_velocity", "Velocity variance, Gaussian", "", "lower", 3, "latents"),
                "The same for normally distributed latents of this covariance: what a linear "
                "model is left with; 1.57 for white noise.",
                of_all=_gaussian_velocity_variance,
            ),
        ),
        _patches,
        array="latent_patches",
    ),
    Metric(
        "interpolated",
        "latents",
        (
            Figure(
                *("ifid", "iFID", "", "lower", 2, "distribution"),
                "Frechet distance between Inception's features of all frames and of frames decoded "
                "halfway between each clip's latents and those of its nearest neighbor; biased "
                "upward by few clips.",
            ),
            Figure(
                *("ifvd", "iFVD", "", "lower", 1, "distribution"),
                "The same of I3D's features of clips.",
            ),
        ),
        _whole,
        array="latents",
    ),
)
"""Metrics of latents, in the order of tables."""


def midpoints(
    sizes: Sequence[tuple[int, int, int]],
    latents: Sequence[Float[np.ndarray, "n y x z"]],
    pixels: Literal["uint8", "float"],
) -> Iterator[Latents]:
    """Latents halfway between each clip's and its nearest neighbor's, among clips of one size; a
    size that a single clip has gives none. As in the interpolated FID of Xu et al. 2026
    (arXiv 2603.05630), which is that of frames decoded from such latents.

    Args:
        sizes: frames, height and width of each clip.
        latents: those of each clip.
        pixels: type of the frames to be decoded.
    """
    alike: dict[tuple[int, int, int], list[np.ndarray]] = {}
    for size, values in zip(sizes, latents, strict=True):
        alike.setdefault(size, []).append(values)
    for size, those in alike.items():
        if len(those) < 2:
            continue
        nearest = diffusability.nearest_others(np.stack(those).reshape(len(those), -1))
        for own, other in zip(those, nearest, strict=True):
            between = ((own + those[other]) / 2)[None]
            yield Latents(between, *size, "uint8" if pixels == "uint8" else "float32")


def joined(features: Sequence[Arrays]) -> Arrays:
    """The features of several clips as one array each, (n, d)."""
    names = features[0] if features else ()
    return {
        name: np.concatenate([np.atleast_2d(each[name]) for each in features]) for name in names
    }

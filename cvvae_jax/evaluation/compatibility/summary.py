"""From what was measured of every clip to what a report says of compatibility; float64."""

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from cvvae_jax.frame_groups import key_frames
from cvvae_jax.metrics.frechet import FeatureStatistics, frechet_distance
from cvvae_jax.metrics.latents import linear_probe, mmd, principal_angles
from cvvae_jax.metrics.time import by_position

ClipScores = dict[str, np.ndarray]

CELLS = ("Ei-Di", "Ei-Dv", "Ev-Di", "Ev-Dv")
"""Encoder and decoder: of the image VAE (i) or of the video VAE (v)."""
MAPPINGS = ("first", "slice", "mean", "random")
DISTANCES = (
    *("frechet", "frechet_within", "frechet_same_clips", "mmd", "mmd_within"),
    *("principal_angle", "principal_angle_within"),
)
"""Distances between the distributions of patches."""
MMD_SAMPLES = 1000
"""Patches of each set that MMD takes at most, evenly spaced: it looks at all pairs."""


def summarize_compatibility(clips: Sequence[ClipScores]) -> dict:
    """Summarizes what `measure_compatibility` found of each clip, given without its batch axis, as
    one dict for JSON: numbers, or None where the clips don't allow one.

    - `matrix`, `mappings`, `mappings_video_decoder`: every metric's mean over a clip's frames,
      averaged over clips; `color_shift` likewise.
    - `latents.channels`: mean and standard deviation over all latents of all clips. Further on,
      latents are in units of the image VAE's: its mean taken off and divided by its deviation,
      channel by channel.
    - `latents.kl`: nats per latent value, at the key frames; `kl_by_position`: at the first frame,
      then at each position in the groups of frames, the last one being the key frame's.
    - `latents.distance`, `distance_by_position`: root mean squared difference, of the same pairs of
      latents.
    - `latents.frechet`, `mmd`: squared distance between patches of E_v's latents of every other
      clip (the first, the third, ..) and of E_i's latents of the remaining ones, averaged over both
      ways to divide the clips. `frechet_within`, `mmd_within`: the same distance with E_i's latents
      on both sides. Samples are as large, so that both are equal for encoders that give equal
      latents.
    - `latents.frechet_same_clips`: squared distance between all patches of E_v's latents and all of
      E_i's, of the same clips; 0 for encoders that give equal latents.
    - `latents.principal_angle`, `principal_angle_within`: the mean angle, in degrees, between the
      main directions of the same halves' patches, those that hold 90 % of the variance.
    - `latents.probe_r2`: R^2 of the best linear map between a patch of one's latents and that of
      the other's at its place, fitted on one half of the clips and tested on the other, averaged
      over both ways.
    - `lipschitz`: see `_lipschitz`.

    Raises:
        ValueError: there is no clip.
    """
    if not clips:
        raise ValueError("There is no clip to summarize.")
    return {
        "matrix": {
            mode: {cell: _scores(clips, f"matrix/{mode}/{cell}/") for cell in CELLS}
            for mode in ("video", "image")
        },
        "mappings": {psi: _scores(clips, f"mapping/{psi}/") for psi in MAPPINGS},
        "mappings_video_decoder": {
            psi: _scores(clips, f"mapping_video_decoder/{psi}/") for psi in MAPPINGS
        },
        "color_shift": {cell: _numbers(_mean(clips, f"color_shift/{cell}")) for cell in CELLS},
        "latents": _latents(clips),
        "lipschitz": _lipschitz(clips),
    }


def _scores(clips: Sequence[ClipScores], name: str) -> dict[str, float | None]:
    """A mean over clips for every metric that some clip has."""
    keys = sorted({key for clip in clips for key in clip if key.startswith(name)})
    return {
        key.removeprefix(name): _number(
            _nanmean([clip[key].mean(dtype=np.float64) for clip in clips if key in clip])
        )
        for key in keys
    }


def _latents(clips: Sequence[ClipScores]) -> dict:
    video, image = (_channels(clips, name) for name in ("video", "image"))
    columns = zip(*video, *image, strict=True)
    names = ("mean_video", "std_video", "mean_image", "std_image")
    unit = np.where(image[1] > 0, image[1], 1.0)
    kl = [clip["latents/kl"].astype(np.float64) for clip in clips]
    squares = [(clip["latents/square_distance"] / unit**2).mean(axis=1) for clip in clips]
    time = int(clips[0]["temporal_compression"])
    return {
        "channels": [dict(zip(names, _numbers(column), strict=True)) for column in columns],
        "kl": _number(_at_keys(kl, time)),
        "kl_by_position": _numbers(_by_position(kl, time)),
        "distance": _number(np.sqrt(_at_keys(squares, time))),
        "distance_by_position": _numbers(np.sqrt(_by_position(squares, time))),
        **_distributions(clips, image[0], unit),
    }


def _channels(clips: Sequence[ClipScores], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over all clips."""
    counts, means, variances = (
        np.stack([clip[f"latents/{key}"] for clip in clips]).astype(np.float64)
        for key in ("count", f"{name}/mean", f"{name}/var")
    )
    shares = counts[:, None] / counts.sum()
    mean = (shares * means).sum(axis=0)
    return mean, np.sqrt((shares * (variances + np.square(means - mean))).sum(axis=0))


def _at_keys(values: list[Float[np.ndarray, " t"]], time: int) -> float:
    keys = [key_frames(len(clip), temporal_compression=time) for clip in values]
    return float(np.mean([clip[key].mean() for clip, key in zip(values, keys, strict=True)]))


def _by_position(values: list[Float[np.ndarray, " t"]], time: int) -> Float[np.ndarray, " p"]:
    return _nanmean([by_position(clip[None], time) for clip in values])


def _distributions(clips: Sequence[ClipScores], mean: np.ndarray, unit: np.ndarray) -> dict:
    """Distances of patches, and how well one tells the other; `mean` and `unit` for each
    channel."""

    def half(name: str, start: int, step: int = 2) -> np.ndarray:
        rows = np.concatenate([clip[f"patches/{name}"] for clip in clips[start::step]])
        places = rows.shape[1] // len(mean)
        return (rows.astype(np.float64) - np.tile(mean, places)) / np.tile(unit, places)

    if len(clips) < 2 or min(len(half("image", 0)), len(half("image", 1))) < 2:
        probes = {"image_from_video": None, "video_from_image": None}
        return dict.fromkeys(DISTANCES) | {"probe_r2": probes}
    video, image = ([half(name, start) for start in (0, 1)] for name in ("video", "image"))
    return {
        "frechet": _number(_crossed(_frechet, video, image)),
        "frechet_within": _number(_crossed(_frechet, image, image)),
        "frechet_same_clips": _number(_frechet(half("video", 0, 1), half("image", 0, 1))),
        "mmd": _number(_crossed(_mmd, video, image)),
        "mmd_within": _number(_crossed(_mmd, image, image)),
        "principal_angle": _number(_crossed(_angle, video, image)),
        "principal_angle_within": _number(_crossed(_angle, image, image)),
        "probe_r2": {
            "image_from_video": _number(_probed(video, image)),
            "video_from_image": _number(_probed(image, video)),
        },
    }


def _crossed(distance: Callable, a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """From one half to the other half, averaged over both ways to choose."""
    return float(np.mean([distance(a[0], b[1]), distance(a[1], b[0])]))


def _frechet(a: np.ndarray, b: np.ndarray) -> float:
    statistics = FeatureStatistics(), FeatureStatistics()
    for into, rows in zip(statistics, (a, b), strict=True):
        into.add(rows)
    return frechet_distance(*statistics)


def _mmd(a: np.ndarray, b: np.ndarray) -> float:
    thinned = [
        rows[np.linspace(0, len(rows) - 1, min(len(rows), MMD_SAMPLES)).round().astype(int)]
        for rows in (a, b)
    ]
    return mmd(*thinned)


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(principal_angles(a, b).mean()) if b.std(axis=0).any() else float("nan")


def _probed(known: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    ways = [
        linear_probe(known[train], wanted[train], known[1 - train], wanted[1 - train])
        for train in (0, 1)
    ]
    return float(np.mean(ways))


def _lipschitz(clips: Sequence[ClipScores]) -> dict[str, float | None]:
    """Means over clips of what `stretch` measures, and what follows of it for each clip.

    `loss_bound`: image_error + largest * distance, which `loss` doesn't exceed where `largest` is
    the largest stretch on the way; `within_bound`: the share of clips where it doesn't;
    `path_bound`: the same with `path` for `largest`, which is exact. The other way round,
    `distance_bound`: (loss + image_error) / least: latents may be as far apart as that, or farther.
    """
    names = ("distance", "loss", "image_error", "chord", "path", "largest", "least", "typical")
    found = {
        name: np.asarray([clip[f"lipschitz/{name}"] for clip in clips], np.float64)
        for name in names
    }
    error, loss, distance = found["image_error"], found["loss"], found["distance"]
    # Equal latents have no stretch, and nothing to bound.
    path = np.where(distance > 0, found["path"], 0.0)
    bound = error + found["largest"] * distance
    with np.errstate(divide="ignore"):
        converse = (loss + error) / found["least"]
    found |= {
        "loss_bound": bound,
        "path_bound": error + path * distance,
        "within_bound": (loss <= bound * (1 + 1e-6)).astype(np.float64),
        "distance_bound": converse,
    }
    return {name: _number(_nanmean(values)) for name, values in found.items()}


def _mean(clips: Sequence[ClipScores], key: str) -> np.ndarray:
    return np.mean([clip[key] for clip in clips], axis=0, dtype=np.float64)


def _nanmean(values: Sequence[np.ndarray | float] | np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.asarray(np.nanmean(np.asarray(values, np.float64), axis=0))


def _number(value: float | np.ndarray) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(values: Sequence[float] | np.ndarray) -> list[float | None]:
    return [_number(value) for value in values]

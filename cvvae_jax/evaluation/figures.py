"""The figures of a table: what each is called and means, and how a clip's arrays give it."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from cvvae_jax.evaluation.measure import Arrays
from cvvae_jax.metrics.image import psnr_of
from cvvae_jax.metrics.time import flicker, levels_of


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number that contenders are compared by."""

    key: str
    label: str
    unit: str
    better: Literal["higher", "lower", "one"]
    """Which of two is better; `one`: the one nearer to 1."""
    digits: int
    """After the decimal point, to be shown."""
    group: Literal["frames", "time", "distribution"]
    description: str
    of_clip: Callable[[Arrays], float | None] | None = None
    """From what was measured of a clip, None where that lacks it; unset: a figure of all clips."""

    def record(self) -> dict[str, Any]:
        """What results say of it."""
        fields = {field.name for field in dataclasses.fields(self)} - {"of_clip"}
        return {name: getattr(self, name) for name in sorted(fields)}


def _mean_of(name: str) -> Callable[[Arrays], float | None]:
    return lambda arrays: _mean(arrays.get(name))


def _mean(values: np.ndarray | None) -> float | None:
    if values is None or not np.size(values):
        return None
    return float(np.mean(values, dtype=np.float64))


def _mean_where_defined(name: str) -> Callable[[Arrays], float | None]:
    """Without the NaN of borders that aren't there and of frames in which nothing moves on."""

    def figure(arrays: Arrays) -> float | None:
        values = np.atleast_1d(arrays.get(name, np.nan))
        return _mean(values[np.isfinite(values)])

    return figure


def _psnr(arrays: Arrays, name: str = "mse") -> float | None:
    return _mean(psnr_of(np.asarray(arrays[name], np.float64))) if name in arrays else None


def _psnr_of_mean(arrays: Arrays) -> float | None:
    mse = _mean(arrays.get("mse"))
    return None if mse is None else float(psnr_of(np.asarray(mse, np.float64)))


def _difference_psnr(arrays: Arrays) -> float | None:
    return _psnr(arrays, "difference_mse")


def _flicker(arrays: Arrays) -> float | None:
    if not _has_course(arrays):
        return None
    return float(flicker(np.asarray(arrays["spectrum"], np.float64)))


def _drift(arrays: Arrays) -> float | None:
    if not _has_course(arrays):
        return None
    return float(levels_of(np.asarray(arrays["drift_mse"], np.float64)))


def _has_course(arrays: Arrays) -> bool:
    """A single frame has none over time."""
    return len(arrays.get("difference_mse", ())) > 0


FIGURES = (
    Figure(
        *("psnr_of_mean", "PSNR of mean error", "dB", "higher", 2, "frames"),
        "Peak signal-to-noise ratio of a clip's mean squared error over all its frames (peak 255, "
        "of 8-bit values), then the mean over clips. It comes first, since the mean of frames' own "
        "PSNRs is led by whatever keeps some frames exactly and the others badly.",
        _psnr_of_mean,
    ),
    Figure(
        *("psnr", "PSNR", "dB", "higher", 2, "frames"),
        "Of every frame, at most 100 dB, which frames count that are kept exactly; the mean over "
        "frames, then over clips. Never below the PSNR of mean error, and above it where frames "
        "differ.",
        _psnr,
    ),
    Figure(
        *("ssim", "SSIM", "", "higher", 4, "frames"),
        "Structural similarity of every frame, as for 8-bit values with the range 255: Gaussian "
        "windows of 11 x 11 pixels, sigma 1.5, each color channel by itself.",
        _mean_of("ssim"),
    ),
    Figure(
        *("ms_ssim", "MS-SSIM", "", "higher", 4, "frames"),
        "Structural similarity at five scales; frames of 176 pixels and more.",
        _mean_of("ms_ssim"),
    ),
    Figure(
        *("lpips_vgg", "LPIPS (VGG)", "", "lower", 4, "frames"),
        "Distance of VGG16's features of every frame.",
        _mean_of("lpips_vgg"),
    ),
    Figure(
        *("lpips_alex", "LPIPS (AlexNet)", "", "lower", 4, "frames"),
        "Distance of AlexNet's features of every frame.",
        _mean_of("lpips_alex"),
    ),
    Figure(
        *("difference_psnr", "PSNR of differences", "dB", "higher", 2, "time"),
        "PSNR of every difference between a frame and the next one: errors that stand still don't "
        "count, errors that change from frame to frame do.",
        _difference_psnr,
    ),
    Figure(
        *("flicker", "Flicker", "levels", "lower", 2, "time"),
        "Error that comes and goes within four frames or fewer: the root of the error's power at a "
        "quarter cycle per frame and above, in 8-bit levels.",
        _flicker,
    ),
    Figure(
        *("drift", "Drift", "levels", "lower", 2, "time"),
        "Error that grows steadily from the first to the last frame: root mean square of the "
        "straight line that fits a pixel's error best, without its mean, in 8-bit levels.",
        _drift,
    ),
    Figure(
        *("chunk_seam", "Chunk seams", "", "one", 3, "time"),
        "Squared error of frame differences across the borders of chunks over that elsewhere; 1: "
        "no seam.",
        _mean_where_defined("chunk_seam"),
    ),
    Figure(
        *("tile_seam", "Tile seams", "", "one", 3, "time"),
        "Squared error of the differences of pixels across the borders of tiles over that inside; "
        "1: no seam. Only where frames were cut into tiles.",
        _mean_where_defined("tile_seam"),
    ),
    Figure(
        *("warping", "Warping error", "levels", "lower", 2, "time"),
        "How far a reconstructed frame is from the one before, moved by the input's optical flow, "
        "where that is not hidden; motion that the flow misses counts too.",
        _mean_where_defined("warping"),
    ),
    Figure(
        *("fvd", "rFVD", "", "lower", 1, "distribution"),
        "Frechet distance between I3D's logits of the clips and of their reconstructions; biased "
        "upward by few clips, so that only figures of equally many can be compared.",
    ),
    Figure(
        *("fid", "rFID of frames", "", "lower", 2, "distribution"),
        "Frechet distance between Inception's features of all frames and of their "
        "reconstructions; biased upward by few frames.",
    ),
)
"""All of them, in the order of tables."""

"""The table of metrics: how each is measured, and which figures of it are shown.

A metric is one row of `METRICS`. The row's function measures a clip; its figures say what tables
call the numbers, and how they follow from what was measured. Protocols, measuring, summaries and
reports read this table alone. docs/extending.md adds a metric, step by step.
"""

from collections.abc import Callable

import numpy as np

from cvvae_jax.evaluation import latents
from cvvae_jax.evaluation.metric import Arrays, Figure, Kind, Metric, Network, mean
from cvvae_jax.losses import lpips
from cvvae_jax.metrics import color, frechet, image, time
from cvvae_jax.models.feature_networks.alexnet import SMALLEST as ALEXNET_PIXELS
from cvvae_jax.models.feature_networks.alexnet import AlexLPIPS
from cvvae_jax.models.feature_networks.i3d import I3D
from cvvae_jax.models.feature_networks.i3d import SHORTEST as I3D_FRAMES
from cvvae_jax.models.feature_networks.inception import InceptionV3
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.feature_networks.vgg import SPATIAL_COMPRESSION as VGG_PIXELS

__all__ = ["DEFINITIONS", "METRICS", "Arrays", "Figure", "Kind", "Metric", "Network"]


def _mean_where_defined(name: str) -> Callable[[Arrays], float | None]:
    """The mean without NaN, which stands for missing borders and for frames that show no motion."""

    def figure(arrays: Arrays) -> float | None:
        values = np.atleast_1d(arrays.get(name, np.nan))
        return mean(values[np.isfinite(values)])

    return figure


def _color_shift(arrays: Arrays) -> float | None:
    if "color" not in arrays:
        return None
    return float(np.abs(arrays["color"][:, :3].mean(axis=0, dtype=np.float64)).max())


def _color_column(column: int) -> Callable[[Arrays], float | None]:
    """The mean of a column of the colors' errors over frames that have a hue."""

    def figure(arrays: Arrays) -> float | None:
        values = arrays["color"][:, column] if "color" in arrays else np.empty(0)
        return mean(values[np.isfinite(values)])

    return figure


def _psnr(arrays: Arrays, name: str = "mse") -> float | None:
    return mean(image.psnr_of(np.asarray(arrays[name], np.float64))) if name in arrays else None


def _psnr_of_mean(arrays: Arrays) -> float | None:
    mse = mean(arrays.get("mse"))
    return None if mse is None else float(image.psnr_of(np.asarray(mse, np.float64)))


def _difference_psnr(arrays: Arrays) -> float | None:
    return _psnr(arrays, "difference_mse")


def _flicker(arrays: Arrays) -> float | None:
    if not _has_course(arrays):
        return None
    return float(time.flicker(np.asarray(arrays["spectrum"], np.float64)))


def _drift(arrays: Arrays) -> float | None:
    if not _has_course(arrays):
        return None
    return float(time.levels_of(np.asarray(arrays["drift_mse"], np.float64)))


def _has_course(arrays: Arrays) -> bool:
    """Whether the clip has differences between frames; a single frame has none."""
    return len(arrays.get("difference_mse", ())) > 0


_ROWS = (
    Metric(
        "psnr",
        "frames",
        (
            Figure(
                *("psnr_of_mean", "PSNR of mean error", "dB", "higher", 2, "frames"),
                "Peak signal-to-noise ratio of a clip's mean squared error over all its frames "
                "(peak 255, of 8-bit values), then the mean over clips. It comes first, since the "
                "mean of frames' own PSNRs is led by whatever keeps some frames exactly and the "
                "others badly.",
                _psnr_of_mean,
            ),
            Figure(
                *("psnr", "PSNR", "dB", "higher", 2, "frames"),
                "Of every frame, at most 100 dB, which frames count that are kept exactly; the "
                "mean over frames, then over clips. Never below the PSNR of mean error, and above "
                "it where frames differ.",
                _psnr,
            ),
        ),
        image.mse,
        array="mse",
    ),
    Metric(
        "ssim",
        "frames",
        (
            Figure(
                *("ssim", "SSIM", "", "higher", 4, "frames"),
                "Structural similarity of every frame, as for 8-bit values with the range 255: "
                "Gaussian windows of 11 x 11 pixels, sigma 1.5, each color channel by itself.",
            ),
        ),
        image.ssim,
        smallest=image.SSIM_WINDOW,
        definition=2,
    ),
    Metric(
        "ms_ssim",
        "frames",
        (
            Figure(
                *("ms_ssim", "MS-SSIM", "", "higher", 4, "frames"),
                "Structural similarity at five scales; frames of 176 pixels and more.",
            ),
        ),
        image.ms_ssim,
        smallest=image.MS_SSIM_PIXELS,
        definition=2,
    ),
    Metric(
        "color",
        "clip",
        (
            Figure(
                *("hue_error", "Hue error", "degrees", "lower", 2, "frames"),
                "How far hues are turned around the gray axis, weighted by the original's chroma; "
                "pixels with less than 16 levels of it have no hue, nor do clips without others.",
                _color_column(3),
            ),
            Figure(
                *("chroma_ratio", "Chroma", "", "one", 3, "frames"),
                "The reconstruction's chroma over the original's, of the same pixels; below 1: "
                "paler.",
                _color_column(4),
            ),
            Figure(
                *("color_shift", "Color shift", "levels", "lower", 2, "frames"),
                "The mean error of red, green or blue over a clip, whichever is the largest.",
                _color_shift,
            ),
        ),
        color.color_errors,
    ),
    Metric(
        "lpips_vgg",
        "frames",
        (
            Figure(
                *("lpips_vgg", "LPIPS (VGG)", "", "lower", 4, "frames"),
                "Distance of VGG16's features of every frame.",
            ),
        ),
        lpips,
        smallest=VGG_PIXELS,
        network=Network(LPIPS, "lpips", "lpips_heads"),
    ),
    Metric(
        "lpips_alex",
        "frames",
        (
            Figure(
                *("lpips_alex", "LPIPS (AlexNet)", "", "lower", 4, "frames"),
                "Distance of AlexNet's features of every frame.",
            ),
        ),
        lpips,
        smallest=ALEXNET_PIXELS,
        network=Network(AlexLPIPS, "lpips_alex", "lpips_alex_heads"),
    ),
    Metric(
        "time",
        "built_in",
        (
            Figure(
                *("difference_psnr", "PSNR of differences", "dB", "higher", 2, "time"),
                "PSNR of every difference between a frame and the next one: errors that stand "
                "still don't count, errors that change from frame to frame do.",
                _difference_psnr,
            ),
            Figure(
                *("flicker", "Flicker", "levels", "lower", 2, "time"),
                "Error that comes and goes within four frames or fewer: the root of the error's "
                "power at a quarter cycle per frame and above, in 8-bit levels.",
                _flicker,
            ),
            Figure(
                *("drift", "Drift", "levels", "lower", 2, "time"),
                "Error that grows steadily from the first to the last frame: root mean square of "
                "the straight line that fits a pixel's error best, without its mean, in 8-bit "
                "levels.",
                _drift,
            ),
        ),
    ),
    Metric(
        "seams",
        "built_in",
        (
            Figure(
                *("chunk_seam", "Chunk seams", "", "one", 3, "time"),
                "Squared error of frame differences across the borders of chunks over that "
                "elsewhere; 1: no seam.",
                _mean_where_defined("chunk_seam"),
            ),
            Figure(
                *("tile_seam", "Tile seams", "", "one", 3, "time"),
                "Squared error of the differences of pixels across the borders of tiles over that "
                "inside; 1: no seam. Only where frames were cut into tiles.",
                _mean_where_defined("tile_seam"),
            ),
        ),
    ),
    Metric(
        "warping",
        "clip",
        (
            Figure(
                *("warping", "Warping error", "levels", "lower", 2, "time"),
                "How far a reconstructed frame is from the one before, moved by the input's "
                "optical flow, where that is not hidden; motion that the flow misses counts too.",
                _mean_where_defined("warping"),
            ),
        ),
        time.warping_error,
        smallest=time.FLOW_PIXELS,
    ),
    Metric(
        "fvd",
        "clip_features",
        (
            Figure(
                *("fvd", "rFVD", "", "lower", 1, "distribution"),
                "Frechet distance between I3D's logits of the clips and of their reconstructions; "
                "biased upward by few clips, so that only figures of equally many can be compared.",
            ),
        ),
        frechet.clip_features,
        shortest=I3D_FRAMES,
        network=Network(I3D, "i3d"),
    ),
    Metric(
        "fid",
        "frame_features",
        (
            Figure(
                *("fid", "rFID of frames", "", "lower", 2, "distribution"),
                "Frechet distance between Inception's features of all frames and of their "
                "reconstructions; biased upward by few frames.",
            ),
        ),
        frechet.frame_features,
        network=Network(InceptionV3, "inception"),
    ),
    *latents.ROWS,
    Metric("compatibility", "built_in"),
)

METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}
"""All metrics by name, in the order of tables. A script may add rows of its own before it starts an
evaluation."""

DEFINITIONS = max(row.definition for row in _ROWS)
"""Counts the changes of definitions of metrics. Part of a protocol's hash, so that figures of two
definitions are never compared. Since 2, SSIM and MS-SSIM are of pixels in [0, 1]; in 1 they were of
values in [-1, 1]."""


def metrics_of(*kinds: Kind) -> list[Metric]:
    """The metrics of these kinds, in the order of tables."""
    return [metric for metric in METRICS.values() if metric.kind in kinds]


def all_figures() -> list[Figure]:
    """The figures of all metrics, in the order of tables."""
    return [figure for metric in METRICS.values() for figure in metric.figures]

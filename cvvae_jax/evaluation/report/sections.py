"""Plots over time, players, and what was evaluated on what."""

import base64
import dataclasses
from pathlib import Path

from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.report import numbers
from cvvae_jax.evaluation.report.answer import Results, first_metric, is_baseline, score
from cvvae_jax.evaluation.report.plots import Curve, Plot, lines, off_scale, position_names

_LEVELS = 127.5
"""8-bit levels in a unit of pixel values, which lie in [-1, 1]."""


@dataclasses.dataclass(frozen=True)
class Player:
    """An example clip, inside the page."""

    clip: str
    why: str
    psnr: str
    frames: int | None
    of: int | None
    source: str


def plots(results: Results) -> list[Plot]:
    """The plots that there are values for."""
    made = [
        _psnr_over_time(results),
        _psnr_by_position(results, "group"),
        _psnr_by_position(results, "chunk"),
        _spectrum(results),
        _by_clip(results),
    ]
    return [plot for plot in made if plot]


def _series(results: Results, key: str) -> list[Curve]:
    series = results.get("series") or {}
    curves = []
    for color, contender in enumerate(results["contenders"]):
        values = (series.get(contender["name"]) or {}).get(key)
        if values and any(value is not None for value in values):
            curves.append(Curve(color, values, is_baseline=is_baseline(contender)))
    return curves


def scale_note(results: Results, curves: list[Curve], *, log: bool = False) -> str:
    """Who leaves the axis of a plot, and how far; empty where nobody does."""
    names = [contender["name"] for contender in results["contenders"]]
    notes = []
    for curve in off_scale(curves, log=log):
        values = [value for value in curve.values if value is not None]
        ends = (numbers.significant(end) for end in (min(values), max(values)))
        ends = " to ".join(dict.fromkeys(ends))
        notes.append(f"{names[curve.color]} ({ends})")
    return f" The axis fits the models; off the scale: {', '.join(notes)}." if notes else ""


def _psnr_over_time(results: Results) -> Plot | None:
    curves = _series(results, "psnr_over_time")
    if not curves:
        return None
    title = "PSNR over time"
    caption = (
        "Mean over clips of each frame’s PSNR. Teeth with the period of the temporal compression "
        "come from groups of frames, a slope is drift."
    )
    caption += scale_note(results, curves)
    axis = {"x_label": "frame", "y_label": "PSNR, dB"}
    return Plot(title, caption, lines(curves, name="over-time", label=title, **axis))


def _psnr_by_position(results: Results, unit: str) -> Plot | None:
    curves = _series(results, f"psnr_by_{unit}_position")
    if not curves:
        return None
    count = max(len(curve.values) for curve in curves)
    title = f"PSNR by position in the {unit}"
    caption = {
        "group": "The first frame of a clip is encoded alone; the others in groups that share one "
        "latent frame. A flat line treats all frames of a group alike.",
        "chunk": "Long clips are encoded in chunks; a fall at the right or left end would show "
        "where they meet.",
    }[unit] + scale_note(results, curves)
    drawn = lines(
        curves,
        name=f"by-{unit}",
        label=title,
        x_label=f"position in the {unit}",
        y_label="PSNR, dB",
        dots=count <= 12,
        ticks=position_names(count),
    )
    return Plot(title, caption, drawn)


def _spectrum(results: Results) -> Plot | None:
    series, curves = results.get("series") or {}, []
    for color, contender in enumerate(results["contenders"]):
        found = (series.get(contender["name"]) or {}).get("spectrum") or {}
        if any(value is not None for value in found.get("power") or []):
            power = [None if value is None else value * _LEVELS**2 for value in found["power"]]
            places = found["frequencies"]
            curves.append(Curve(color, power, places, is_baseline=is_baseline(contender)))
    if not curves:
        return None
    title = "Flicker spectrum"
    caption = (
        "Power of the error by its frequency in time. What stands still lies on the left; the "
        "shaded part, above a quarter cycle a frame, is seen as flicker."
    )
    caption += scale_note(results, curves, log=True)
    drawn = lines(
        curves,
        name="spectrum",
        label=title,
        x_label="cycles per frame",
        y_label="power of the error, (8-bit levels)²",
        log=True,
        band=(0.25, 0.5),
    )
    return Plot(title, caption, drawn)


def _by_clip(results: Results) -> Plot | None:
    """Differences from the reference clip by clip; of a single contender, its scores."""
    metric = first_metric(results)
    if metric is None:
        return None
    names = [contender["name"] for contender in results["contenders"]]
    base = score(results, results["reference"], metric).get("clips") or []
    alone, curves = len(names) == 1, []
    for color, contender in enumerate(results["contenders"]):
        name = contender["name"]
        if name == results["reference"] and not alone:
            continue
        own = score(results, name, metric).get("clips") or []
        pairs = zip(own, base, strict=False)
        known = [a if alone else a - b for a, b in pairs if a is not None and b is not None]
        if known:
            curves.append(Curve(color, sorted(known), is_baseline=is_baseline(contender)))
    if not curves:
        return None
    what = metric["label"]
    unit = f", {metric['unit']}" if metric.get("unit") else ""
    title = f"{what} of every clip" if alone else f"{what} of every clip, against the reference"
    caption = "Every contender’s clips, sorted from low to high."
    if not alone:
        caption = (
            f"{what} minus that of {results['reference']} on the same clip, sorted for each "
            "contender. A line that stays on one side of zero is a difference that holds for all."
        )
    caption += scale_note(results, curves)
    axis = {"x_label": "clips, sorted", "y_label": what + ("" if alone else " difference") + unit}
    dots = max(len(curve.values) for curve in curves) <= 60
    drawn = lines(curves, name="by-clip", label=title, dots=dots, zero=not alone, **axis)
    return Plot(title, caption, drawn)


def players(results: Results, folder: Path) -> list[tuple[str, int, list[Player]]]:
    """Names of contenders, their numbers, and their examples, as data inside the page.

    Raises:
        UserError: an example's file is missing, or lies outside the folder.
    """
    groups, whole = [], {clip["name"]: clip["frames"] for clip in results["data"]["clips"]}
    for color, contender in enumerate(results["contenders"]):
        name = contender["name"]
        found = [
            Player(
                clip=example["clip"],
                why=example["why"],
                psnr=numbers.fixed(example.get("psnr"), 2),
                frames=example.get("frames", whole.get(example["clip"])),
                of=whole.get(example["clip"]),
                source=data_uri(folder, example["media"], kind="video/webm"),
            )
            for example in results.get("examples") or []
            if example["contender"] == name
        ]
        if found:
            groups.append((name, color, found))
    return groups


def data_uri(folder: Path, media: str, *, kind: str) -> str:
    """A file of a report's folder as an address that holds it.

    Raises:
        UserError: the file is missing, or lies outside the folder.
    """
    path = (folder / media).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UserError(f"{media}: examples of a report must lie in its folder, {folder}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}, an example of the report, cannot be read.") from error
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"

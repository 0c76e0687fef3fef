"""Flat fields: what contenders make of clips of one color, as a table, plots and pictures."""

import dataclasses
from pathlib import Path

from cvvae_jax.evaluation.flat_fields import FLAT_FIELD_FIGURES
from cvvae_jax.evaluation.report import numbers
from cvvae_jax.evaluation.report.answer import Results, is_baseline
from cvvae_jax.evaluation.report.compatibility_tables import QuantityRow
from cvvae_jax.evaluation.report.plots import Curve, Plot, lines
from cvvae_jax.evaluation.report.sections import data_uri, scale_note


@dataclasses.dataclass(frozen=True)
class Picture:
    """The error of a clip of one color, inside the page."""

    contender: str
    color: str
    """Red, green and blue, 8-bit, in words."""
    levels: int
    """The error in 8-bit levels that is drawn black or white."""
    source: str


@dataclasses.dataclass(frozen=True)
class FlatFieldsSection:
    """All that the page shows of flat fields."""

    names: list[str]
    colors: int
    """Number of colors that were measured."""
    rows: list[QuantityRow]
    plots: list[Plot]
    pictures: list[Picture]


def section(results: Results, folder: Path) -> FlatFieldsSection | None:
    """The section of results["flat_fields"]; None where that is empty.

    Raises:
        UserError: a picture's file is missing, or lies outside the folder.
    """
    found = {name: entry for name, entry in (results.get("flat_fields") or {}).items() if entry}
    if not found:
        return None
    return FlatFieldsSection(
        names=list(found),
        colors=max(len(entry["colors"]) for entry in found.values()),
        rows=_rows(found),
        plots=[plot for plot in (_by_frame(results), _spectrum(results)) if plot],
        pictures=_pictures(results, folder),
    )


def _rows(found: dict[str, dict]) -> list[QuantityRow]:
    """Kinds of structure that some contender has a number of."""
    return [
        QuantityRow(
            figure.label,
            figure.description,
            [(numbers.fixed(entry.get(figure.key), 2), []) for entry in found.values()],
        )
        for figure in FLAT_FIELD_FIGURES
        if any(entry.get(figure.key) is not None for entry in found.values())
    ]


def _by_frame(results: Results) -> Plot | None:
    curves = _curves(results, lambda entry: (entry.get("by_frame"), None))
    if not any(len(curve.values) > 1 for curve in curves):
        return None
    title = "Structure of flat fields over time"
    caption = (
        "Root mean square of each frame beside the clip’s own mean color. Teeth come from groups "
        "of frames that share a latent frame, or from chunks."
    ) + scale_note(results, curves)
    axis = {"x_label": "frame", "y_label": "structure, 8-bit levels"}
    return Plot(title, caption, lines(curves, name="flat-by-frame", label=title, **axis))


def _spectrum(results: Results) -> Plot | None:
    def of(entry: dict) -> tuple[list, list | None]:
        spectrum = entry.get("spectrum") or {}
        # The mean color, at 0, is none of it.
        return (spectrum.get("power") or [])[1:], (spectrum.get("frequencies") or [])[1:]

    curves = _curves(results, of)
    if not any(value for curve in curves for value in curve.values):
        return None
    title = "Spectrum of flat fields"
    caption = (
        "Power of the structure inside of the frame by its frequency in space. The lattice of "
        "latents has peaks at multiples of one cycle a latent: 0.125 for 8 x 8 pixels."
    ) + scale_note(results, curves, log=True)
    drawn = lines(
        curves,
        name="flat-spectrum",
        label=title,
        x_label="cycles per pixel",
        y_label="power, (8-bit levels)²",
        log=True,
    )
    return Plot(title, caption, drawn)


def _curves(results: Results, of) -> list[Curve]:
    found, curves = results["flat_fields"], []
    for color, contender in enumerate(results["contenders"]):
        values, places = of(found.get(contender["name"]) or {})
        if values and any(value is not None for value in values):
            baseline = is_baseline(contender)
            curves.append(Curve(color, values, places, is_baseline=baseline))
    return curves


def _pictures(results: Results, folder: Path) -> list[Picture]:
    """The pictures of models; those of baselines would be gray."""
    models = [each["name"] for each in results["contenders"] if not is_baseline(each)]
    return [
        Picture(
            contender=name,
            color=", ".join(map(str, picture["color"])),
            levels=picture["levels"],
            source=data_uri(folder, picture["media"], kind="image/png"),
        )
        for name in models
        for picture in (results["flat_fields"].get(name) or {}).get("pictures") or []
    ]

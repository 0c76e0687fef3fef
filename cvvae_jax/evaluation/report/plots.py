"""The plots of the report, as SVG that stands inside a page."""

import dataclasses
import io
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from cvvae_jax.evaluation.report.numbers import Number

SERIES = 8
"""How many colors of contenders the page has; further ones begin again, dashed."""
INK, MUTED, GRID = "#010101", "#010102", "#010103"
"""Colors that stand for the page's own, which differ in light and dark."""
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"}

_NAMESPACE = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
# Matplotlib places text by the widths of its own font; its size is all that is kept.
_FONT = re.compile(r"font: (?:[a-z0-9]+ )*([\d.]+)px [^;]*")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def series_color(number: int) -> str:
    """A placeholder for the color of the contender of this number."""
    return f"#02020{number % SERIES}"


def drawing(figure: Figure, *, name: str, label: str) -> Markup:
    """A figure as an SVG element.

    Args:
        figure: drawn with the colors above only.
        name: of the drawing, unlike any other's on the page.
        label: what it shows, for those who can't see it.
    """
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    ElementTree.register_namespace("", _NAMESPACE)
    root = ElementTree.fromstring(file.getvalue())
    _clean(root, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    # HTML knows neither prefixes nor names of spaces; an svg element there needs none.
    text = ElementTree.tostring(root, encoding="unicode").replace(f' xmlns="{_NAMESPACE}"', "")
    text = _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.2f}", text)
    text = re.sub(r"\s*\n\s*", " ", text).replace("> <", "><")
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return Markup(re.sub(r"#02020(\d)", r"var(--series-\1)", text))


def _clean(root: ElementTree.Element, name: str) -> None:
    """Drop what a page doesn't need, and names that other drawings have as well."""
    for parent in list(root.iter()):
        for child in list(parent):
            tag = child.tag.removeprefix(f"{{{_NAMESPACE}}}")
            if tag in ("metadata", "style") or tag.startswith("{"):
                parent.remove(child)
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    for element in root.iter():
        number = element.attrib.pop("id", None)
        if number in used:
            element.set("id", f"{name}-{number}")
        elif number and number.startswith("series-"):
            element.set("class", number)
        for key, value in list(element.attrib.items()):
            value = re.sub(r"url\(#", f"url(#{name}-", value)
            element.set(key, _FONT.sub(r"font-size: \1px", value))
        if link := element.attrib.pop(_LINK, None):
            element.set("href", f"#{name}-{link.removeprefix('#')}")


Numbers = Sequence[Number]
# Inches. On the page it is one to one and a half times as large, and so is its text.
_SIZE = (4.4, 2.7)


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot, its title and how to read it."""

    title: str
    caption: str
    drawing: Markup


@dataclasses.dataclass(frozen=True)
class Curve:
    """One contender's line: its number, which chooses the color, and its values."""

    color: int
    values: Numbers
    places: Numbers | None = None
    """Positions of the values on the horizontal axis; None for 0, 1, 2, .."""
    is_baseline: bool = False
    """Whether it is no model's, and the axis makes no room for it."""


def lines(
    curves: Sequence[Curve],
    *,
    name: str,
    label: str,
    x_label: str,
    y_label: str,
    dots: bool = False,
    ticks: Sequence[str] | None = None,
    zero: bool = False,
    log: bool = False,
    band: tuple[float, float] | None = None,
) -> Markup:
    """Lines of several contenders; missing values leave gaps.

    Args:
        curves: one a contender.
        name: of the drawing, unlike any other's on the page.
        label: what it shows, in words.
        x_label: below it.
        y_label: above it, on the left.
        dots: whether every value has a dot, for few values.
        ticks: names of the places 0, 1, ..; None for numbers.
        zero: whether there is a line at zero.
        log: whether the vertical axis is logarithmic; values that aren't positive are left out.
        band: horizontal part of the plot that is shaded.
    """
    figure, axes = _axes(x_label, y_label)
    if band:
        axes.axvspan(*band, color=GRID, alpha=0.45, linewidth=0)
    if zero:
        axes.axhline(0, color=MUTED, linewidth=0.8)
    for curve in reversed(curves):  # the reference, which comes first, lies on top
        _draw(axes, curve, dots=dots, log=log)
    if room := limits([curve for curve in curves if not curve.is_baseline], log=log):
        axes.set_ylim(*room)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
    if ticks is None:
        whole = all(curve.places is None for curve in curves)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole, steps=[1, 2, 4, 5, 8, 10]))
    else:
        step = -(-len(ticks) // 12)
        axes.set_xticks(range(0, len(ticks), step), ticks[::step])
    return drawing(figure, name=name, label=label)


def limits(curves: Sequence[Curve], *, log: bool) -> tuple[float, float] | None:
    """Limits of the vertical axis that hold all values, with a margin; None without values."""
    values = [x for curve in curves for x in curve.values if x is not None and (x > 0 or not log)]
    if not values:
        return None
    ends = np.array([min(values), max(values)], np.float64)
    ends = np.log(ends) if log else ends
    # Equal values need room too.
    margin = max(0.06 * (ends[1] - ends[0]), 1e-3 * max(1.0, np.abs(ends).max()))
    ends += [-margin, margin]
    return tuple(map(float, np.exp(ends) if log else ends))


def off_scale(curves: Sequence[Curve], *, log: bool) -> list[Curve]:
    """The curves that leave the axis, which fits the models, somewhere or everywhere."""
    room = limits([curve for curve in curves if not curve.is_baseline], log=log)
    if room is None:
        return []
    return [
        curve
        for curve in curves
        if any(x is not None and not room[0] <= x <= room[1] for x in curve.values)
    ]


def channels(
    rows: Sequence[dict[str, Number]],
    *,
    color: int,
    limits: tuple[float | int, float | int],
    name: str,
    label: str,
) -> Markup:
    """Mean and standard deviation of each latent channel, of the video and the image encoder.

    Args:
        rows: mean_video, std_video, mean_image and std_image of each channel.
        color: number of the contender.
        limits: of the vertical axis.
        name: of the drawing.
        label: what it shows, in words.
    """
    figure, axes = _axes("latent channel", "mean ± one standard deviation")
    places = np.arange(len(rows))
    encoders = (("image", -0.14, MUTED, "none"), ("video", 0.14, series_color(color), None))
    for encoder, shift, ink, face in encoders:
        mean, std = (
            np.array([row.get(f"{part}_{encoder}") for row in rows], float)
            for part in ("mean", "std")
        )
        low, high = mean - std, mean + std
        axes.vlines(places + shift, low, high, color=ink, linewidth=2, capstyle="round")
        face = ink if face is None else GRID
        axes.plot(places + shift, mean, "o", markersize=5.5, mfc=face, mec=ink)
    axes.axhline(0, color=GRID, linewidth=0.8, zorder=0)
    axes.set_ylim(*limits)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    step = -(-len(rows) // 16)
    axes.set_xticks(places[::step], [str(place) for place in places[::step]])
    axes.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
    return drawing(figure, name=name, label=label)


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, dpi=72, layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8, length=0, pad=5)
    axes.set_xlabel(x_label, color=MUTED, fontsize=8)
    axes.set_title(y_label, color=INK, fontsize=8.5, loc="left", pad=8)
    return figure, axes


def _draw(axes: Axes, curve: Curve, *, dots: bool, log: bool) -> None:
    values = np.array(curve.values, float)  # None becomes NaN
    if log:
        values = np.where(values > 0, values, np.nan)
    places = np.arange(len(values)) if curve.places is None else np.array(curve.places, float)
    alone = np.isfinite(values).sum() == 1
    axes.plot(
        places,
        values,
        color=series_color(curve.color),
        linestyle="--" if curve.color >= SERIES else "-",
        linewidth=1.7,
        marker="o" if dots or alone else None,
        markersize=4.5,
        markeredgewidth=0,
        solid_joinstyle="round",
        gid=f"series-{curve.color}",
    )


def position_names(count: int) -> list[str]:
    """Names of a first frame that stands alone, and of the positions in the groups after it."""
    return ["first", *map(str, range(1, count))]

"""The section on compatibility: who reads whose latents, how far latents are apart, and plots."""

import dataclasses

from markupsafe import Markup

from cvvae_jax.evaluation.report.answer import Results
from cvvae_jax.evaluation.report.compatibility_tables import Scores, Table, pair_name, tables
from cvvae_jax.evaluation.report.numbers import percent
from cvvae_jax.evaluation.report.plots import Curve, Plot, channels, lines, position_names

_BY_POSITION = {
    "kl_by_position": (
        "KL divergence by position in the group",
        "From the posterior of a group’s latent frame, by the video encoder, to that of each frame "
        "of the group, by the image encoder: low for the frame that the latents stand for.",
        "nats per latent value",
    ),
    "distance_by_position": (
        "Distance of latents by position in the group",
        "Root mean squared difference of the same posteriors’ means, in standard deviations of the "
        "image VAE’s latents.",
        "standard deviations",
    ),
}


def plots(found: dict[str, dict], order: list[str]) -> list[Plot]:
    """The plots that there are values for.

    Args:
        found: each contender's entry.
        order: names of all contenders, whose numbers choose the colors.
    """
    latents = {name: entry.get("latents") or {} for name, entry in found.items()}
    made = _of_channels(latents, order)
    for key, (title, caption, unit) in _BY_POSITION.items():
        curves = [
            Curve(order.index(name), entry[key])
            for name, entry in latents.items()
            if entry.get(key)
        ]
        if not any(value is not None for curve in curves for value in curve.values):
            continue
        ticks = position_names(max(len(curve.values) for curve in curves))
        drawn = lines(
            curves,
            name=key.replace("_", "-"),
            label=title,
            x_label="frame of the group",
            y_label=unit,
            dots=True,
            ticks=ticks,
        )
        made.append(Plot(title, caption, drawn))
    return made


def _of_channels(latents: dict[str, dict], order: list[str]) -> list[Plot]:
    limits = _limits([row for entry in latents.values() for row in entry.get("channels") or []])
    made = []
    for name, entry in latents.items():
        if not entry.get("channels"):
            continue
        color, title = order.index(name), f"Latent channels of {name}"
        caption = (
            "Mean ± one standard deviation of every channel: the image encoder’s in gray, the "
            f"video encoder’s of {name} in color."
        )
        drawn = channels(
            entry["channels"],
            color=color,
            limits=limits,
            name=f"channels-{color}",
            label=title,
        )
        made.append(Plot(title, caption, drawn))
    return made


def _limits(rows: list[dict]) -> tuple[float | int, float | int]:
    """Limits of the axis that hold the channels of all contenders, so that plots compare."""
    ends = [0.0]
    for row in rows:
        for encoder in ("video", "image"):
            mean, std = row.get(f"mean_{encoder}"), row.get(f"std_{encoder}")
            if mean is not None:
                ends += [mean - (std or 0), mean + (std or 0)]
    margin = 0.05 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


_ENCODERS, _DECODERS = ("Ei", "Ev"), ("Di", "Dv")
_MODES = {
    "video": (
        "Video mode",
        "whole clips, against every frame; an image stands for its whole group, so motion costs it",
    ),
    "image": ("Image mode", "every key frame encoded and decoded alone, against itself"),
}


@dataclasses.dataclass(frozen=True)
class PairScore:
    """One cell of the 2 x 2 matrix: its main score, the others, and how good it is, in percent."""

    pair: Markup
    main: str
    others: list[str]
    percent: float | None


@dataclasses.dataclass(frozen=True)
class Mode:
    """Matrices of all contenders: of each, two rows (encoders) of two cells (decoders)."""

    title: str
    remark: str
    matrices: list[list[list[PairScore]]]


@dataclasses.dataclass(frozen=True)
class CompatibilitySection:
    """All that the page shows of compatibility."""

    names: list[str]
    leads: list[Markup]
    main: str
    modes: list[Mode]
    tables: list[Table]
    plots: list[Plot]


def section(results: Results) -> CompatibilitySection | None:
    """The section of results["compatibility"]; None where that is empty."""
    found = {name: entry for name, entry in (results.get("compatibility") or {}).items() if entry}
    if not found:
        return None
    entries = list(found.values())
    keys = {
        key
        for entry in entries
        for mode in _MODES
        for cell in _cells(entry, mode).values()
        for key in cell
    }
    scores = Scores(results["metrics"], keys)
    return CompatibilitySection(
        names=list(found),
        leads=_leads(found, scores),
        main=scores.label(scores.main),
        modes=[
            Mode(title, remark, _matrices([_cells(entry, mode) for entry in entries], scores))
            for mode, (title, remark) in _MODES.items()
            if any(_cells(entry, mode) for entry in entries)
        ],
        tables=tables(entries, scores),
        plots=plots(found, [contender["name"] for contender in results["contenders"]]),
    )


def _cells(entry: dict, mode: str) -> dict[str, dict]:
    cells = (entry.get("matrix") or {}).get(mode) or {}
    return {pair: cell for pair, cell in cells.items() if cell}


def _leads(found: dict[str, dict], scores: Scores) -> list[Markup]:
    """A sentence a contender: how well the image decoder reads its latents."""
    sentences = []
    for name, entry in found.items():
        cells = _cells(entry, "video")
        seen, own = (cells.get(pair, {}).get(scores.main) for pair in ("Ev-Di", "Ei-Di"))
        if seen is None:
            continue
        text = Markup("The image decoder reads <b>{}</b>’s latents at <b>{} {}</b>")
        sentence = text.format(name, scores.text(scores.main, seen), scores.unit)
        if own is not None:
            side = "above" if seen > own else "below"
            gap = scores.text(scores.main, abs(seen - own))
            sentence += f", {gap} {side} the image VAE’s own"
        sentences.append(sentence + ".")
    return sentences


def _matrices(cells: list[dict[str, dict]], scores: Scores) -> list[list[list[PairScore]]]:
    values = (cell.get(scores.main) for each in cells for cell in each.values())
    known = [value for value in values if value is not None] or [0.0]
    scale = min(known), max(known)
    return [
        [
            [_cell(f"{encoder}-{decoder}", each, scores, scale) for decoder in _DECODERS]
            for encoder in _ENCODERS
        ]
        for each in cells
    ]


def _cell(
    pair: str, cells: dict[str, dict], scores: Scores, scale: tuple[float | int, float | int]
) -> PairScore:
    found = cells.get(pair, {})
    value = found.get(scores.main)
    good = percent(value, *scale)
    if good is not None and scores.lower_is_better:
        good = round(100 - good, 2)
    return PairScore(pair_name(pair), scores.text(scores.main, value), scores.others(found), good)

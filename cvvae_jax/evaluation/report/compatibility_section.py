"""Compatibility with the image VAE: heat tables, tables of distances, plots of latents."""

import dataclasses
from typing import Any

from markupsafe import Markup

from cvvae_jax.evaluation.report import numbers
from cvvae_jax.evaluation.report.answer import Results
from cvvae_jax.evaluation.report.plots import Curve, Plot, channels, lines

ENCODERS, DECODERS = ("Ei", "Ev"), ("Di", "Dv")
MODES = {
    "video": ("Video mode", "whole clips"),
    "image": ("Image mode", "every key frame a single image"),
}
MAPPINGS = {
    "first": "the first frame of each group",
    "slice": "one frame of each group, at an even spacing",
    "mean": "the mean of each group’s frames",
    "random": "a frame of each group at random",
}
_DISTANCES = {
    "kl": (
        "KL divergence",
        "Closed form, from the video encoder’s posterior to the image encoder’s. 0: the same.",
    ),
    "frechet": (
        "Fréchet distance",
        "Between Gaussians fitted to patches of both encoders’ latents. Read it beside the next "
        "row, which is what two halves of the same latents give.",
    ),
    "frechet_within": (
        "Fréchet distance within",
        "The same between two halves of the image encoder’s latents: what the distance above can hardly "
        "fall below.",
    ),
    "mmd": (
        "MMD",
        "Maximum mean discrepancy of the latents’ patches, unbiased: about 0 (also slightly below) "
        "where the distributions are the same.",
    ),
}
_PROBES = {
    "image_from_video": (
        "R² of image latents from video latents",
        "Of a linear map fitted on some clips and tested on others; 1 is perfect.",
    ),
    "video_from_image": (
        "R² of video latents from image latents",
        "Of a linear map fitted on some clips and tested on others; 1 is perfect.",
    ),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A named quantity and, for each contender, its text and smaller ones below it."""

    label: Markup | str
    term: str
    """What the glossary calls it; empty where there is nothing to explain."""
    help: str
    cells: list[tuple[str, list[str]]]


@dataclasses.dataclass(frozen=True)
class Heat:
    """One cell of the 2 x 2 matrix: its main number, the others, how much color it gets."""

    pair: Markup
    main: str
    others: list[tuple[str, str]]
    percent: float | None


@dataclasses.dataclass(frozen=True)
class Section:
    """All that the page shows of compatibility."""

    names: list[str]
    colors: list[int]
    leads: list[Markup]
    main_label: str
    matrices: list[tuple[str, str, list[list[list[Heat]]]]]
    """Title, remark, and for each contender two rows (encoders) of two cells (decoders)."""
    tables: list[tuple[str, str, list[Row]]]
    plots: list[Plot]


def section(results: Results) -> Section | None:
    """What results["compatibility"] holds; None where it holds nothing."""
    found = {name: entry for name, entry in (results.get("compatibility") or {}).items() if entry}
    if not found:
        return None
    order = [contender["name"] for contender in results["contenders"]]
    labels = {metric["key"]: metric for metric in results["metrics"]}
    entries = list(found.values())
    main = _main_key(entries)
    return Section(
        names=list(found),
        colors=[order.index(name) for name in found],
        leads=_leads(found, main, labels),
        main_label=_label(main, labels),
        matrices=[
            (title, remark, _matrices(entries, mode, main, labels))
            for mode, (title, remark) in MODES.items()
            if any((entry.get("matrix") or {}).get(mode) for entry in entries)
        ],
        tables=[table for table in _tables(entries, main, labels) if table[2]],
        plots=_plots(found, order),
    )


def _main_key(entries: list[dict]) -> str:
    for entry in entries:
        for scores in (entry.get("matrix") or {}).values():
            for cell in scores.values():
                return next(iter(cell), "psnr")
    return "psnr"


def _label(key: str, labels: dict[str, dict]) -> str:
    return labels[key]["label"] if key in labels else key.replace("_", " ")


def _text(key: str, value: float | None, labels: dict[str, dict]) -> str:
    if key in labels:
        return numbers.fixed(value, labels[key]["digits"])
    return numbers.significant(value)


def pair_name(pair: str) -> Markup:
    """`Ev-Di` as encoder and decoder with their indices."""
    parts = [
        Markup("<i>{}</i><sub>{}</sub>").format(part[:1], part[1:]) for part in pair.split("-")
    ]
    return Markup(" → ").join(parts)


def _leads(found: dict[str, dict], main: str, labels: dict[str, dict]) -> list[Markup]:
    """A sentence a contender: how well the image decoder reads its latents."""
    sentences = []
    for name, entry in found.items():
        cells = (entry.get("matrix") or {}).get("video") or {}
        seen, own = ((cells.get(pair) or {}).get(main) for pair in ("Ev-Di", "Ei-Di"))
        if seen is None:
            continue
        unit = (labels.get(main) or {}).get("unit") or _label(main, labels)
        text = Markup("The image decoder reads <b>{}</b>’s latents at <b>{} {}</b>")
        sentence = text.format(name, _text(main, seen, labels), unit)
        if own is not None:
            gap = _text(main, abs(seen - own), labels)
            side = "above" if seen > own else "below"
            sentence += f", {gap} {side} the image VAE’s own"
        sentences.append(sentence + ".")
    return sentences


def _matrices(entries, mode: str, main: str, labels) -> list[list[list[Heat]]]:
    cells = [(entry.get("matrix") or {}).get(mode) or {} for entry in entries]
    known = [scores[main] for each in cells for scores in each.values() if scores.get(main)]
    low, high = (min(known), max(known)) if known else (0, 1)
    if labels.get(main, {}).get("better") == "lower":
        low, high = high, low
    return [
        [
            [
                _heat(f"{encoder}-{decoder}", each, main, labels, scale=(low, high))
                for decoder in DECODERS
            ]
            for encoder in ENCODERS
        ]
        for each in cells
    ]


def _heat(pair: str, cells: dict, main: str, labels, *, scale: tuple[float, float]) -> Heat:
    scores = cells.get(pair) or {}
    others = [
        (_label(key, labels), _text(key, value, labels))
        for key, value in scores.items()
        if key != main
    ]
    value = scores.get(main)
    low, high = scale
    share = None if value is None else 100 * (value - low) / (high - low) if high != low else 50.0
    percent = None if share is None else round(share, 1)
    return Heat(pair_name(pair), _text(main, value, labels), others, percent)


def _tables(entries: list[dict], main: str, labels) -> list[tuple[str, str, list[Row]]]:
    latents = [entry.get("latents") or {} for entry in entries]
    probes = [each.get("probe_r2") or {} for each in latents]
    return [
        (
            "What the image decoder makes of video latents",
            f"{_label(main, labels)} of the image decoder’s output against each mapping of the "
            "input’s groups of frames; other metrics below it.",
            _mapping_rows(entries, main, labels),
        ),
        (
            "Distance between the latents of both encoders",
            "",
            _number_rows(latents, _DISTANCES) + _number_rows(probes, _PROBES),
        ),
        (
            "Color shift",
            "Mean of output minus target in red, green and blue, in 8-bit levels.",
            _shift_rows(entries),
        ),
        ("Lipschitz figures", "", _other_rows([entry.get("lipschitz") for entry in entries])),
    ]


def _keys(parts: list[dict]) -> list[str]:
    """Keys of several dictionaries, in the order in which they first appear."""
    return list(dict.fromkeys(key for part in parts for key in part))


def _mapping_rows(entries: list[dict], main: str, labels) -> list[Row]:
    parts = [entry.get("mappings") or {} for entry in entries]
    rows = []
    for mapping in _keys(parts):
        cells = []
        for part in parts:
            scores = part.get(mapping) or {}
            others = [
                f"{_label(key, labels)} {_text(key, value, labels)}"
                for key, value in scores.items()
                if key != main
            ]
            cells.append((_text(main, scores.get(main), labels), others))
        text = MAPPINGS.get(mapping, "")
        rows.append(Row(mapping, f"Mapping “{mapping}”", text, cells))
    return rows


def _number_rows(parts: list[dict], names: dict[str, tuple[str, str]]) -> list[Row]:
    return [
        Row(label, label, text, [(numbers.significant(part.get(key)), []) for part in parts])
        for key, (label, text) in names.items()
        if any(part.get(key) is not None for part in parts)
    ]


def _shift_rows(entries: list[dict]) -> list[Row]:
    parts = [entry.get("color_shift") or {} for entry in entries]
    rows = []
    for pair in _keys(parts):
        texts = [[numbers.signed(value, 2) for value in part.get(pair) or []] for part in parts]
        cells = [(Markup(" ").join(map(_channel, text)) or numbers.MISSING, []) for text in texts]
        rows.append(Row(pair_name(pair), "", "", cells))
    return rows


def _channel(text: str) -> Markup:
    return Markup('<span class="channel">{}</span>').format(text)


def _other_rows(parts: list[Any]) -> list[Row]:
    flat = [flattened(part or {}) for part in parts]
    return [
        Row(key.replace("_", " "), "", "", [(display(part.get(key)), []) for part in flat])
        for key in _keys(flat)
    ]


def flattened(value: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by points."""
    found = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, dict):
            found |= flattened(inner, f"{name} · ")
        else:
            found[name] = inner
    return found


def display(value: Any) -> str:
    """Any JSON value in a few characters."""
    match value:
        case None:
            return numbers.MISSING
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return numbers.significant(value)
        case list() | tuple():
            return ", ".join(display(item) for item in value) or "none"
        case _:
            return str(value)


def _plots(found: dict[str, dict], order: list[str]) -> list[Plot]:
    plots, curves = [], []
    for name, entry in found.items():
        color, latents = order.index(name), entry.get("latents") or {}
        if rows := latents.get("channels"):
            title = f"Latent channels of {name}"
            caption = "Mean ± one standard deviation: the image encoder’s in gray, the video "
            caption += f"encoder of {name} in color."
            drawn = channels(rows, color=color, name=f"channels-{color}", label=title)
            plots.append(Plot(title, caption, drawn))
        if values := latents.get("kl_by_position"):
            curves.append(Curve(color, values))
    if curves:
        ticks = position_names(max(len(curve.values) for curve in curves))
        title = "KL divergence by position in the group"
        caption = (
            "Between the video encoder’s posterior, one for a group of frames, and the image "
            "encoder’s of each frame of the group: low where the latents stand for that frame."
        )
        axis = {"x_label": "frame of the group", "y_label": "KL divergence"}
        drawn = lines(curves, name="kl", label=title, dots=True, ticks=ticks, **axis)
        plots.append(Plot(title, caption, drawn))
    return plots


def position_names(count: int) -> list[str]:
    """Names of a first frame that stands alone, and of the positions in the groups after it."""
    return ["first", *map(str, range(1, count))]

"""The answer of an evaluation in a sentence, and each contender beside the reference."""

import dataclasses
from typing import Any

from markupsafe import Markup

from cvvae_jax.evaluation.report import numbers
from cvvae_jax.evaluation.report.numbers import Number
from cvvae_jax.evaluation.summary import LEVEL

Results = dict[str, Any]
INTERVAL = f"{100 * LEVEL:.0f}\N{NO-BREAK SPACE}% interval"
"""The page's name for the intervals of results."""
BASELINE = "baseline"
"""The kind, in results.json, of a contender that is no model."""
_ALIKE = ("temporal_compression", "spatial_compression", "latent_channels")


@dataclasses.dataclass(frozen=True)
class Answer:
    """The text at the top of the page."""

    headline: Markup
    """One sentence: which is better, and by how much."""
    detail: str
    """How sure that is, and what was compared."""


@dataclasses.dataclass(frozen=True)
class Standing:
    """A contender beside the reference, by the first metric."""

    name: str
    kind: str
    color: int
    value: str
    range: str | None
    difference: str | None
    difference_range: str | None
    verdict: str | None
    count: str | None
    """On how many clips that holds."""
    tally: dict[str, int]
    """How many metrics say better, worse and unclear."""
    strip: dict[str, float | None] | None
    """Difference and its interval in percent of a scale that all contenders share."""


@dataclasses.dataclass(frozen=True)
class Standings:
    """All models, the best one first, and the ends of their common scale of differences; baselines
    by themselves, in the results' order and without verdicts: one that keeps some frames exactly
    leads many a metric, and is no model."""

    rows: list[Standing]
    baselines: list[Standing]
    low: str
    high: str
    zero: float
    """Position of zero on the scale, in percent."""


def first_metric(results: Results) -> dict | None:
    """The first metric that has a better direction and a value of the reference."""
    for metric in results["metrics"]:
        if metric["better"] != "one" and _has(results, results["reference"], metric):
            return metric
    return None


def score(results: Results, contender: str, metric: dict) -> dict:
    """A contender's entry for a metric; empty where there is none."""
    return results["scores"].get(contender, {}).get(metric["key"]) or {}


def value_of(results: Results, contender: str, metric: dict) -> Number:
    """A contender's mean of a metric."""
    return score(results, contender, metric).get("value")


def paired(results: Results, contender: str, metric: dict) -> dict:
    """A contender's difference from the reference; empty where there is none."""
    entry = (results.get("paired") or {}).get(contender, {}).get(metric["key"]) or {}
    return entry if entry.get("difference") is not None else {}


def verdict(metric: dict, entry: dict) -> str | None:
    """The verdict of a paired difference: better, worse, or unclear if its interval holds zero.

    None without an interval, and for metrics that have no better direction.
    """
    low, high = ends(entry)
    if metric["better"] == "one" or low is None or high is None:
        return None
    if low <= 0 <= high:
        return "unclear"
    return "better" if (low > 0) == (metric["better"] == "higher") else "worse"


def ends(entry: dict) -> tuple[Number, Number]:
    """The interval of a score or of a difference."""
    return entry.get("low"), entry.get("high")


def counts(results: Results, contender: str, metric: dict) -> tuple[int, int, int] | None:
    """On how many clips a contender is better and worse than the reference, and of how many.

    None for metrics of the whole set, and for those without a better direction.
    """
    own = score(results, contender, metric).get("clips")
    other = score(results, results["reference"], metric).get("clips")
    if metric["better"] == "one" or not own or not other:
        return None
    sign = 1 if metric["better"] == "higher" else -1
    both = [(a, b) for a, b in zip(own, other, strict=True) if a is not None and b is not None]
    gaps = [sign * (a - b) for a, b in both]
    return (sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps), len(gaps)) if gaps else None


def counted(found: str | None, count: tuple[int, int, int] | None) -> str | None:
    """Text such as `on 9 of 14 clips`: on how many clips the verdict holds or, where the verdict is
    unclear, on how many the contender is better."""
    if count is None:
        return None
    if found in ("better", "worse"):
        return f"on {count[found == 'worse']} of {count[2]} clips"
    return f"better on {count[0]} of {count[2]} clips"


def answer(results: Results) -> Answer:
    """The best of the models that compress as the reference does, beside the next one; what the
    reference reaches, where it is alone.

    What keeps more numbers (an image VAE frame by frame) is no fair rival, and a baseline that
    keeps some frames exactly has 100 dB on them.
    """
    metric, reference = first_metric(results), results["reference"]
    if metric is None:
        return Answer(Markup("No scores yet."), "The reference has no value of any metric.")
    models = [c["name"] for c in results["contenders"] if not is_baseline(c)]
    rivals = [
        name
        for name in models
        if _has(results, name, metric) and _compression(results, name) == _compression(results)
    ]
    if len(rivals) == 1:
        value = _quantity(metric, value_of(results, reference, metric))
        interval = numbers.span(*ends(score(results, reference, metric)), metric["digits"])
        headline = Markup("{} reaches {}.").format(_kept(reference), _kept(value))
        return Answer(headline, f"{INTERVAL} {interval}." if interval else "")
    sign = -1 if metric["better"] == "higher" else 1
    rivals = sorted(rivals, key=lambda name: sign * value_of(results, name, metric))
    other = rivals[0] if rivals[0] != reference else rivals[1]
    found = _compared(results, metric, other)
    if len(rivals) == len(results["contenders"]):
        return found
    scope = "Only contenders that compress alike are compared here; all are listed below."
    return dataclasses.replace(found, detail=f"{found.detail} {scope}")


def _compared(results: Results, metric: dict, other: str) -> Answer:
    reference, entry = results["reference"], paired(results, other, metric)
    mean, base = (value_of(results, name, metric) for name in (other, reference))
    gap = entry.get("difference", mean - base)
    ahead = (gap > 0) == (metric["better"] == "higher")
    better, worse = (other, reference) if ahead else (reference, other)
    found, count = verdict(metric, entry), counts(results, other, metric)
    even = found is None and round(gap, metric["digits"]) == 0
    names, size = (_kept(better), _kept(worse)), _kept(_quantity(metric, abs(gap)))
    if found == "unclear":
        text = Markup("{} and {} can’t be told apart by {}.")
        headline = text.format(*names, _kept(metric["label"]))
    elif even:
        names = (_kept(reference), _kept(other))
        headline = Markup("{} and {} are equal in {}.").format(*names, _kept(metric["label"]))
    elif found is None:
        headline = Markup("{} is ahead of {} by {}.").format(*names, size)
    else:
        headline = Markup("{} is better than {} by {}.").format(*names, size)
    detail = "There is no interval to tell whether that is more than chance"
    if found:
        low, high = ends(entry) if gap > 0 else (-entry["high"], -entry["low"])
        low, high = (numbers.fixed(end, metric["digits"]) for end in (low, high))
        zero = "includes" if found == "unclear" else "excludes"
        size = _quantity(metric, abs(gap)) if found == "unclear" else ""
        detail = f"Difference {size}, {INTERVAL}" if size else f"{INTERVAL} of the difference"
        detail += f" {low} to {high} {metric['unit'] or ''}".rstrip() + f", which {zero} zero"
    if even:
        detail = "There is no difference in the digits that are shown"
    elif count:
        detail += f"; {better} is ahead on {count[not ahead]} of {count[2]} clips"
    return Answer(headline, f"{detail}.")


def is_baseline(contender: dict) -> bool:
    """Whether a contender is no model."""
    return contender["kind"] == BASELINE


def standings(results: Results) -> Standings | None:
    """Every contender by the first metric; None without such a metric."""
    metric = first_metric(results)
    if metric is None:
        return None
    places = [0.0]
    for contender in results["contenders"]:
        if is_baseline(contender):  # far off, as one that keeps frames exactly may be
            continue
        entry = paired(results, contender["name"], metric)
        found = (entry.get(key) for key in ("low", "difference", "high"))
        places += [place for place in found if place is not None]
    scale = min(places), max(places)
    sign = -1 if metric["better"] == "higher" else 1

    def order(row: Standing) -> tuple[bool, float | int]:
        value = value_of(results, row.name, metric)
        return value is None, sign * (value or 0)

    rows = [
        _standing(results, metric, contender, color, scale)
        for color, contender in enumerate(results["contenders"])
    ]
    low, high = (numbers.signed(end, metric["digits"]) for end in scale)
    return Standings(
        rows=sorted((row for row in rows if row.kind != BASELINE), key=order),
        baselines=[row for row in rows if row.kind == BASELINE],
        low=low,
        high=high,
        zero=numbers.percent(0.0, *scale),
    )


def _standing(
    results: Results, metric: dict, contender: dict, color: int, scale: tuple
) -> Standing:
    name, digits = contender["name"], metric["digits"]
    entry, own = paired(results, name, metric), score(results, name, metric)
    is_reference = name == results["reference"]
    strip = None
    is_ranked = not is_baseline(contender)
    if is_ranked and (entry or is_reference):
        places = {"at": entry.get("difference", 0.0)}
        places |= {"low": entry.get("low"), "high": entry.get("high")}
        strip = {key: numbers.percent(place, *scale) for key, place in places.items()}
    found = verdict(metric, entry) if is_ranked else None
    verdicts = [verdict(each, paired(results, name, each)) for each in results["metrics"]]
    count = counted(found, counts(results, name, metric)) if is_ranked else None
    return Standing(
        name=name,
        kind=contender["kind"],
        color=color,
        value=numbers.fixed(own.get("value"), digits),
        range=numbers.span(*ends(own), digits),
        difference=numbers.signed(entry["difference"], digits) if entry else None,
        difference_range=numbers.span(*ends(entry), digits),
        verdict=found,
        count=None if is_reference else count,
        tally={key: verdicts.count(key) for key in ("better", "worse", "unclear")},
        strip=strip,
    )


def _compression(results: Results, name: str | None = None) -> list:
    """How much a contender, or the reference, compresses."""
    name = results["reference"] if name is None else name
    contender = next(each for each in results["contenders"] if each["name"] == name)
    return [contender.get(key) for key in _ALIKE]


def _has(results: Results, name: str, metric: dict) -> bool:
    return value_of(results, name, metric) is not None


def _kept(text: str) -> Markup:
    """Text that is broken over lines only where it doesn't fit on one."""
    return Markup('<span class="keep">{}</span>').format(text)


def _quantity(metric: dict, value: float | int) -> str:
    parts = (numbers.fixed(value, metric["digits"]), metric.get("unit"), metric["label"])
    return " ".join(part for part in parts if part)

"""The table of scores: a row a metric, a column a contender."""

import dataclasses

from cvvae_jax.evaluation.report import numbers
from cvvae_jax.evaluation.report.answer import (
    Results,
    counted,
    counts,
    ends,
    is_baseline,
    paired,
    score,
    value_of,
    verdict,
)

GROUPS = {
    "frames": "Frame by frame",
    "time": "Over time",
    "latents": "Latents",
    "distribution": "Of the whole set",
}
DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", "one": "1 is best"}
ARROWS = {"higher": "↑", "lower": "↓", "one": "→ 1"}


@dataclasses.dataclass(frozen=True)
class ContenderScore:
    """A contender's score, and its difference from the reference."""

    color: int
    value: str
    range: str | None
    best: bool
    difference: str | None
    difference_range: str | None
    verdict: str | None
    count: str | None
    """On how many clips the verdict holds."""


@dataclasses.dataclass(frozen=True)
class MetricRow:
    """A metric and its cells, in the contenders' order."""

    metric: dict
    direction: str
    arrow: str
    cells: list[ContenderScore]


def groups(results: Results) -> list[tuple[str, list[MetricRow]]]:
    """Titles and rows, by the metrics' groups; a group without metrics is left out."""
    found: dict[str, list[MetricRow]] = {group: [] for group in GROUPS}
    for metric in results["metrics"]:
        found.setdefault(metric["group"], []).append(_row(results, metric))
    return [(GROUPS.get(group, group), rows) for group, rows in found.items() if rows]


def _row(results: Results, metric: dict) -> MetricRow:
    names = [contender["name"] for contender in results["contenders"]]
    models = [each["name"] for each in results["contenders"] if not is_baseline(each)]
    best = _best(metric, [value_of(results, name, metric) for name in models])
    cells = [
        _cell(results, metric, name, color, best=best, is_ranked=name in models)
        for color, name in enumerate(names)
    ]
    better = metric["better"]
    return MetricRow(metric, DIRECTIONS[better], ARROWS[better], cells)


def _best(metric: dict, values: list[numbers.Number]) -> str | None:
    """The best value as it is printed: what looks equal is equally marked."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    match metric["better"]:
        case "higher":
            best = max(known)
        case "lower":
            best = min(known)
        case "one":
            best = min(known, key=lambda value: abs(value - 1))
    return numbers.fixed(best, metric["digits"])


def _cell(
    results: Results, metric: dict, name: str, color: int, *, best: str | None, is_ranked: bool
) -> ContenderScore:
    """A contender's cell; baselines, which are not ranked, have only score and difference."""
    own, entry, digits = (
        score(results, name, metric),
        paired(results, name, metric),
        metric["digits"],
    )
    value = numbers.fixed(own.get("value"), digits)
    found = verdict(metric, entry) if is_ranked else None
    is_counted = is_ranked and name != results["reference"]
    return ContenderScore(
        color=color,
        value=value,
        range=numbers.span(*ends(own), digits),
        best=is_ranked and value == best,
        difference=numbers.signed(entry["difference"], digits) if entry else None,
        difference_range=numbers.span(*ends(entry), digits),
        verdict=found,
        count=counted(found, counts(results, name, metric)) if is_counted else None,
    )

"""The report of an evaluation: one HTML file that needs no network and no server."""

import functools
from pathlib import Path

import jinja2

from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.report import numbers, scores_table
from cvvae_jax.evaluation.report.answer import (
    INTERVAL,
    Results,
    answer,
    first_metric,
    score,
    standings,
)
from cvvae_jax.evaluation.report.numbers import display, flattened
from cvvae_jax.evaluation.report.players import ERROR_LEVELS, error_colors
from cvvae_jax.resumable.files import written_aside
from cvvae_jax.video_io.containers import reason

REPORT_NAME = "report.html"


def write_report(results: Results, folder: str | Path) -> Path:
    """Write folder/report.html from the content of results.json.

    The page holds everything it shows, example videos included, so it can be sent or put on a
    server as it is. Sections without results are left out; texts of the results are escaped.

    Args:
        results: as in results.json; every number a number or None.
        folder: where the page is written; paths of examples' media start there.

    Returns:
        Path of the page.

    Raises:
        UserError: an example's file cannot be read, or the page cannot be written.
    """
    path = Path(folder) / REPORT_NAME
    page = render(results, Path(folder))
    try:
        with written_aside(path) as aside:
            aside.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {reason(error)}.") from error
    return path


def render(results: Results, folder: Path) -> str:
    """The page's text; arguments and errors as of `write_report`."""
    # Here, since Matplotlib takes long.
    from cvvae_jax.evaluation.report import flat_section, sections
    from cvvae_jax.evaluation.report.compatibility import section

    gradient = ", ".join("#" + bytes(color).hex() for color in error_colors()[::32])
    return _template().render(
        results=results,
        answer=answer(results),
        standings=standings(results),
        first=first_metric(results),
        groups=scores_table.groups(results),
        plots=sections.plots(results),
        compatibility=section(results),
        flat_fields=flat_section.section(results, folder),
        players=sections.players(results, folder),
        clip_scores=_clip_scores(results),
        colors={c["name"]: color for color, c in enumerate(results["contenders"])},
        interval=INTERVAL,
        error_gradient=gradient,
        error_levels=ERROR_LEVELS,
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cvvae_jax.evaluation.report", "template"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "display": display,
        "flattened": flattened,
        "millions": numbers.millions,
    }
    return environment.get_template("page.html.jinja")


def _clip_scores(results: Results) -> list[list[str]]:
    """For every clip, each contender's value of the first metric."""
    metric = first_metric(results)
    if metric is None:
        return [[] for _ in results["data"]["clips"]]
    columns = []
    for contender in results["contenders"]:
        clips = score(results, contender["name"], metric).get("clips")
        columns.append(clips or [None] * len(results["data"]["clips"]))
    return [[numbers.fixed(v, metric["digits"]) for v in row] for row in zip(*columns, strict=True)]

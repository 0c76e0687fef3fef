"""The report: its answer is right, it holds all it shows, and texts of users stay texts."""

import base64
import copy
import html.parser
import re
from pathlib import Path

import pytest
import report_results
from markupsafe import Markup
from PIL import Image

from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.report import numbers, plots, sections, write_report
from cvvae_jax.evaluation.report.answer import answer, standings, verdict
from cvvae_jax.evaluation.report.plots import Curve, limits
from cvvae_jax.evaluation.report.scores_table import groups

HIGHER, LOWER = {"better": "higher"}, {"better": "lower"}
# Elements that are never closed.
VOID = {"meta", "link", "br", "img", "input"}


class Page(html.parser.HTMLParser):
    """Every element with its attributes, and all text outside of scripts and styles."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.source = path.read_text()
        self.feed(self.source)
        self.text = " ".join("".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)

    def values(self, *names):
        return [value for _, found in self.elements for name in names if (value := found.get(name))]


@pytest.fixture(scope="module")
def results():
    return report_results.results()


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    return Page(write_report(results, tmp_path_factory.mktemp("report")))


def test_all_elements_are_closed(page):
    assert page.open == []


def test_the_page_asks_for_nothing_outside_of_it(page):
    places = page.values("src", "href", "poster", "srcset", "data", "action", "xlink:href")
    assert places and all(place.startswith(("#", "data:")) for place in places)
    assert "@import" not in page.source and not re.search(r"url\((?!#)", page.source)


def test_every_reference_inside_the_page_has_one_target(page):
    names = page.values("id")
    assert len(names) == len(set(names))
    used = [place[1:] for place in page.values("href") if place.startswith("#")]
    used += re.findall(r"url\(#([^)]+)\)", " ".join(page.values("clip-path", "style")))
    assert used and set(used) <= set(names)


def test_plots_have_the_colors_of_the_page_alone(page):
    drawings = "".join(re.findall(r"<svg.*?</svg>", page.source, re.DOTALL))
    assert "var(--series-0)" in drawings and "var(--ink)" in drawings
    # Matplotlib's own black marks lie in definitions that are drawn in the color of their use.
    assert not set(re.findall(r"#[0-9a-f]{6}", drawings)) - {"#000000"}


def test_a_page_without_players_is_light(page):
    assert len(page.source) < 200_000


def test_every_score_and_difference_is_told_with_its_interval(page, results):
    for name, scores in results["scores"].items():
        for metric in results["metrics"]:
            entry, digits = scores[metric["key"]], metric["digits"]
            if entry["value"] is not None:
                value = numbers.fixed(entry["value"], digits)
                assert f"{value} {numbers.span(entry['low'], entry['high'], digits)}" in page.text
            gap = results["paired"].get(name, {}).get(metric["key"])
            if gap:
                value = numbers.signed(gap["difference"], digits)
                assert f"{value} {numbers.span(gap['low'], gap['high'], digits)}" in page.text


def test_protocol_hashes_clips_and_versions_are_told(page, results):
    for text in ("5f" * 32, "c4" * 32, "099_short.mp4", "it has 21 frames", "0.10.2", "bicubic"):
        assert text in page.text
    titles = page.values("title")
    assert all(clip["sha256"] in titles for clip in results["data"]["clips"])


def test_every_metric_is_defined(page, results):
    assert all(page.text.count(metric["description"]) for metric in results["metrics"])


def test_the_best_value_of_each_row_is_marked(page):
    marked = re.findall(r'class="value best">([^<]+)<', page.source)
    psnr, _, _, flicker, seams, _ = marked
    assert (psnr, flicker, seams) == (
        "31.16",
        "2.25",
        "0.997",
    )  # linear flickers least, but is no model


def test_the_headline_compares_what_compresses_alike(results):
    found = answer(results)
    # image-vae has a higher PSNR, from four times as many latents.
    assert found.headline.striptags() == "quickstart is better than no-compat by 0.39 dB PSNR."
    assert "0.30 to 0.48 dB, which excludes zero" in found.detail
    assert "ahead on 14 of 14 clips" in found.detail


def test_the_headline_names_a_better_rival_first(results):
    assert headline_of(results, reference="no-compat", difference=(0.39, 0.3, 0.48)) == (
        "quickstart is better than no-compat by 0.39 dB PSNR."
    )


def test_the_headline_claims_nothing_that_chance_explains(results):
    assert headline_of(results, difference=(-0.39, -0.9, 0.1)) == (
        "quickstart and no-compat can’t be told apart by PSNR."
    )


def test_the_headline_claims_no_significance_without_an_interval(results):
    assert headline_of(results, difference=(-0.39, None, None)) == (
        "quickstart is ahead of no-compat by 0.39 dB PSNR."
    )


@pytest.mark.parametrize("gap", [0.0, 0.004, -0.004])
def test_the_headline_has_no_winner_where_figures_are_equal(results, gap):
    """PSNR is shown with two digits."""
    assert headline_of(results, difference=(gap, None, None)) == (
        "quickstart and no-compat are equal in PSNR."
    )


def test_the_headline_of_an_error_prefers_the_smaller_one(results):
    flicker = [metric for metric in results["metrics"] if metric["key"] == "flicker"]
    assert headline_of(results, metrics=flicker) == (
        "quickstart is better than no-compat by 0.24 levels Flicker."
    )


def test_the_headline_of_one_contender_is_its_score(results):
    alone = {**results, "contenders": results["contenders"][:1], "paired": {}}
    assert answer(alone).headline.striptags() == "quickstart reaches 29.00 dB PSNR."


def headline_of(results, *, reference="quickstart", difference=None, metrics=None):
    changed = {**results, "reference": reference, "metrics": metrics or results["metrics"]}
    if difference:
        other = {"quickstart": "no-compat", "no-compat": "quickstart"}[reference]
        entry = dict(zip(("difference", "low", "high"), difference, strict=True))
        changed["paired"] = {other: {"psnr": entry}}
    return answer(changed).headline.striptags()


@pytest.mark.parametrize(
    ("metric", "low", "high", "said"),
    [
        (HIGHER, 0.1, 0.2, "better"),
        (HIGHER, -0.2, -0.1, "worse"),
        (LOWER, 0.1, 0.2, "worse"),
        (LOWER, -0.2, -0.1, "better"),
        (LOWER, -0.1, 0.2, "unclear"),
        (HIGHER, 0.0, 0.0, "unclear"),
        (HIGHER, None, None, None),
        ({"better": "one"}, 0.1, 0.2, None),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_direction(metric, low, high, said):
    assert verdict(metric, {"difference": 0.1, "low": low, "high": high}) == said


def test_standings_begin_with_the_best_model_and_share_a_scale(results):
    found = standings(results)
    assert [row.name for row in found.rows] == ["image-vae", "quickstart", "no-compat"]
    assert [row.count for row in found.rows] == ["on 14 of 14 clips", None, "on 14 of 14 clips"]
    places = [row.strip["at"] for row in found.rows]
    assert places == sorted(places, reverse=True) and places[1] == found.zero


@pytest.fixture
def kept_exactly(results):
    """A baseline far ahead of all models, on all clips and by every metric."""
    changed = copy.deepcopy(results)
    changed["series"]["linear"]["psnr_over_time"][0] = 100.0
    for metric in changed["metrics"]:
        sign = 1 if metric["better"] == "higher" else -1
        own, other = (changed["scores"][name][metric["key"]] for name in ("linear", "quickstart"))
        if own["value"] is None or metric["better"] == "one":
            continue
        own["value"] = other["value"] + sign * 20
        if own["clips"]:
            own["clips"] = [value + sign * 20 for value in other["clips"]]
        gap = {"difference": sign * 20.0, "low": sign * 20 - 1.0, "high": sign * 20 + 1.0}
        changed["paired"]["linear"][metric["key"]] = gap
    return changed


def test_a_baseline_that_keeps_frames_exactly_is_never_said_to_be_better(kept_exactly, tmp_path):
    """It stands apart, with its score and difference, without a place, a verdict or a count."""
    found = standings(kept_exactly)
    assert [row.name for row in found.rows] == ["image-vae", "quickstart", "no-compat"]
    [baseline] = found.baselines
    assert baseline.name == "linear" and baseline.difference == "+20.00"
    assert (baseline.verdict, baseline.count, baseline.strip) == (None, None, None)
    for _, rows in groups(kept_exactly):
        for row in rows:
            *models, own = row.cells
            assert not own.best and own.verdict is None and own.count is None
            assert any(cell.best for cell in models) or row.metric["better"] == "one"
    assert answer(kept_exactly).headline.striptags().startswith("quickstart is better than no-comp")
    text = Page(write_report(kept_exactly, tmp_path)).text
    apart = text.index("Baselines, which need no model and are not ranked")
    assert text.index("image-vae") < apart < text.index("Over all metrics, against quickstart")
    assert "linear 5 better" not in text and "baseline, not ranked" in text


def test_plots_say_who_is_off_their_scale(kept_exactly, results, tmp_path):
    lowest = numbers.significant(min(kept_exactly["series"]["linear"]["psnr_over_time"]))
    said = f"The axis fits the models; off the scale: linear ({lowest} to 100)."
    text = Page(write_report(kept_exactly, tmp_path)).text
    assert said in text
    # Where a baseline lies among the models it is none that leaves the axis.
    inside = copy.deepcopy(results)
    for key, values in inside["series"]["quickstart"].items():
        inside["series"]["linear"][key] = values
    for scores in inside["scores"]["linear"], inside["scores"]["quickstart"]:
        scores["psnr"]["clips"] = results["scores"]["no-compat"]["psnr"]["clips"]
    inside["paired"]["linear"] = {}
    found = sections.plots(inside)
    assert found and not [plot for plot in found if "off the scale" in plot.caption]


def test_baselines_take_no_room_in_plots():
    curves = [Curve(0, [20.0, 30.0]), Curve(1, [100.0, 1.0], is_baseline=True)]
    low, high = limits([curves[0]], log=False)
    assert 19 < low < 20 and 30 < high < 31
    low, high = limits([Curve(0, [0.0, 10.0, 1000.0])], log=True)
    assert 5 < low < 10 and 1000 < high < 2000


def test_flat_fields_are_a_table_plots_and_pictures(results, tmp_path):
    """Quantities that no contender has are no rows; a baseline's zeros are off a scale of logs."""
    with_pictures = copy.deepcopy(results)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    picture = {"color": [0, 255, 0], "levels": 4, "media": "a.png"}
    with_pictures["flat_fields"]["no-compat"]["pictures"] = [picture]
    found = Page(write_report(with_pictures, tmp_path))
    assert found.open == []
    for text in ("Error of the color", "2.35", "Lattice of latents", "off the scale: linear (0)"):
        assert text in found.text
    assert "Steps across the borders of tiles" not in found.text
    [source] = [each["src"] for tag, each in found.elements if tag == "img"]
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    assert data == (tmp_path / "a.png").read_bytes()
    assert "0, 255, 0 · ±4 levels" in found.text


@pytest.fixture
def undrawn(monkeypatch):
    """Plots take most of a page's time; only some tests are about them."""
    monkeypatch.setattr(plots, "drawing", lambda figure, *, name, label: Markup("<svg></svg>"))


def test_sections_without_results_are_left_out(results, tmp_path, undrawn):
    for key, title in {
        "compatibility": "Compatibility with the image VAE",
        "flat_fields": "Clips of one color",
        "series": "PSNR over time",
        "paired": "which excludes zero",
        "examples": "Play all",
        "environment": "matmul_precision",
    }.items():
        left = {name: part for name, part in results.items() if name != key}
        found = Page(write_report(left, tmp_path))
        assert found.open == [] and title not in found.text


def test_a_page_is_written_of_nulls(results, tmp_path):
    def emptied(part):
        match part:
            case dict():
                return {key: emptied(value) for key, value in part.items()}
            case list():
                return [emptied(value) for value in part]
            case float():
                return None
            case _:
                return part

    found = Page(write_report(emptied(results), tmp_path))
    assert found.open == [] and "No scores yet." in found.text
    assert not {"None", "nan", "undefined"} & set(found.text.split())


def test_texts_of_users_are_escaped(results, tmp_path, undrawn):
    evil = """</title><script>alert(1)</script>"'&{{ 7 * 7 }}"""

    def spoiled(part):
        match part:
            case dict():
                return {spoiled_name(key): spoiled(value) for key, value in part.items()}
            case list():
                return [spoiled(value) for value in part]
            case str() if part in spoilt:
                return part + evil
            case _:
                return part

    def spoiled_name(key):
        return key + evil if key in report_results.NAMES else key

    words = ("corpus/videos", "099_short.mp4", "it has 21 frames; 97 are needed.", "bicubic", "cpu")
    spoilt = {*report_results.NAMES, *words, "PSNR", "runs/quickstart"}
    spoilt |= {clip["name"] for clip in results["data"]["clips"]}
    found = Page(write_report(spoiled(copy.deepcopy(results)), tmp_path))
    assert sum(tag == "script" for tag, _ in found.elements) == 1
    assert all(word + evil in found.text for word in spoilt)
    assert found.open == []


def test_long_names_of_many_contenders_have_colors(results, tmp_path):
    many = {**results, "contenders": [], "series": {}, "compatibility": {}}
    for number in range(11):
        name = f"{'long' * 20}-{number}" if number else "quickstart"
        many["contenders"].append({**results["contenders"][0], "name": name})
        many["series"][name] = results["series"]["quickstart"]
    text = write_report(many, tmp_path).read_text()
    assert 'class="series-10"' in text and "stroke-dasharray" in text


@pytest.mark.parametrize(("clips", "marked"), [(60, True), (61, False)])
def test_sorted_clips_have_dots_where_they_are_few(results, monkeypatch, clips, marked):
    many = copy.deepcopy(results)
    for scores in many["scores"].values():
        scores["psnr"]["clips"] = [float(number) for number in range(clips)]
    drawn = []
    monkeypatch.setattr(sections, "lines", lambda *_, dots, **__: drawn.append(dots) or Markup(""))
    sections._by_clip(many)
    assert drawn == [marked]


def texts_of(drawing: str) -> set[str]:
    return set(re.findall(r">([^<>]+)</text>", drawing))


@pytest.mark.parametrize(("count", "step"), [(12, 1), (13, 2), (25, 3)])
def test_at_most_twelve_positions_are_named(count, step):
    names = [f"p{number}" for number in range(count)]
    axis = {"name": "a", "label": "a", "x_label": "x", "y_label": "y", "ticks": names}
    drawing = plots.lines([Curve(0, [1.0] * count)], **axis)
    assert texts_of(drawing) & set(names) == set(names[::step])


@pytest.mark.parametrize(("count", "step"), [(4, 1), (16, 1), (17, 2)])
def test_at_most_sixteen_channels_are_numbered(count, step):
    keys = ("mean_video", "std_video", "mean_image", "std_image")
    rows = [dict.fromkeys(keys, 0.5) for _ in range(count)]
    drawing = plots.channels(rows, color=0, limits=(-0.3, 1.3), name="a", label="a")
    numbers = {text for text in texts_of(drawing) if text.isdecimal()}
    assert {*map(str, range(2, count, step))} <= numbers
    assert not numbers & {*map(str, range(3, count, 2))} or step == 1


@pytest.mark.parametrize("media", ["media/none.webm", "../report.html"])
def test_a_report_that_fails_leaves_the_older_one(media, results, tmp_path, undrawn):
    folder = tmp_path / "out"
    folder.mkdir()
    path = write_report(results, folder)
    before = path.read_text()
    (tmp_path / "report.html").write_text("not of this report")
    example = {"contender": "quickstart", "clip": "a.mp4", "why": "worst", "psnr": 1.0}
    with pytest.raises(UserError, match=media.rsplit("/")[-1]):
        write_report({**results, "examples": [{**example, "media": media}]}, folder)
    assert path.read_text() == before
    assert [file.name for file in folder.iterdir()] == ["report.html"]


def test_a_folder_that_is_none_is_named(results, tmp_path, undrawn):
    with pytest.raises(UserError, match="missing"):
        write_report(results, tmp_path / "missing")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (-0.001, "0.00"),
        (-1.005, "−1.00"),
        (1234.5, "1,234.50"),
    ],
)
def test_numbers_are_written_with_their_digits(value, text):
    assert numbers.fixed(value, 2) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (7, "7"), (0.012345, "0.0123"), (-31.62, "−31.6"), (2e-7, "2.00 × 10^−7")],
)
def test_figures_of_unknown_size_keep_three_digits(value, text):
    assert numbers.significant(value) == text

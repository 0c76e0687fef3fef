"""The report in headless Chromium, where there is one: no errors, videos play, nothing overflows.

pip install playwright && playwright install --with-deps chromium    # or apt install chromium
"""

import shutil
import time

import pytest
import report_results

from cvvae_jax.evaluation.report import write_example, write_report

playwright = pytest.importorskip("playwright.sync_api")

SECONDS = 20  # a slow machine's; each check takes well under one


def until(page, condition):
    """Wait for JavaScript's condition; Playwright's own way to wait is forbidden by the page."""
    end = time.monotonic() + SECONDS
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(30)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as found:
        installed = shutil.which("chromium") or shutil.which("google-chrome")
        try:
            opened = found.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error.message.splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "media").mkdir()
    results = report_results.results()
    for number, why in enumerate(("worst", "best")):
        media = f"media/{number}.webm"
        write_example(folder / media, *report_results.clip_and_recon(seed=number), fps=8)
        example = {"contender": "quickstart", "clip": results["data"]["clips"][number]["name"]}
        results["examples"].append({**example, "why": why, "psnr": 21.0, "media": media})
    return write_report(results, folder)


@pytest.fixture
def opened(browser, report, request):
    """A page of the width and color scheme of the test's parameter, and what it complained of."""
    width, scheme = getattr(request, "param", (1280, "light"))
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: requests.append(asked.url))
    page.goto(report.as_uri())
    until(page, "[...document.querySelectorAll('video')].every(v => v.readyState >= 2 || v.error)")
    yield page, complaints, requests
    page.close()


@pytest.mark.parametrize(
    "opened", [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")], indirect=True
)
def test_the_page_opens_without_errors_and_fits(opened, report):
    page, complaints, requests = opened
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {report.as_uri()}
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("document.querySelectorAll('svg').length") >= 8


def test_videos_load_play_and_move_by_frames(opened):
    page, complaints, _ = opened
    states = page.evaluate(
        "[...document.querySelectorAll('video')].map(v => [!v.error, v.readyState])"
    )
    assert len(states) == 2 and all(fine and state >= 2 for fine, state in states)
    page.click("[data-play]")
    playing = "[...document.querySelectorAll('video')].every(v => !v.paused && v.currentTime > 0)"
    until(page, playing)
    page.click("[data-play]")
    page.evaluate(
        "s => { s.value = 3; s.dispatchEvent(new Event('input')) }",
        page.query_selector(".scrub input"),
    )
    until(page, "document.querySelector('.scrub output').textContent === 'frame 3'")
    assert complaints == []


def test_colors_follow_the_scheme(browser, report):
    shades = []
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(report.as_uri())
        shades.append(
            page.evaluate(
                "['body', '.plot [class=series-1] path'].map(s => document.querySelector(s))"
                ".map(e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).stroke])"
            )
        )
        page.close()
    (light, light_line), (dark, dark_line) = shades
    assert light != dark and light_line != dark_line


def test_pointing_at_a_contender_singles_it_out(opened):
    page, _, _ = opened
    page.hover(".legend [data-series='1']")
    until(page, "getComputedStyle(document.querySelector('.plot .series-2')).opacity < 0.5")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.plot .series-1')).opacity") == "1"
    )

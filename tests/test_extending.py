"""docs/extending.md: its Python runs in order, and its diffs fit the files that they change."""

import re
from pathlib import Path

import pytest

from cvvae_jax.convert.families import FAMILIES
from cvvae_jax.convert.recognition import recognize
from cvvae_jax.data import sources
from cvvae_jax.evaluation.metrics import METRICS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "extending.md").read_text()
PRINTED = re.findall(r"print\(.*\)  # (.*)", TEXT)


def blocks(language: str) -> list[tuple[str, str]]:
    """What stands before each block of a language, and the block."""
    found = re.finditer(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return [(TEXT[: match.start()], match[1]) for match in found]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> dict:
    """The names that the page defines; what it adds to METRICS is taken away again."""
    names, printed = {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("extending"))
        names["print"] = lambda *values: printed.append(" ".join(map(str, values)))
        for _, block in blocks("python"):
            exec(block, names)
        names["printed"] = printed
        yield names
    METRICS.pop("mae", None)


def test_python_prints_what_the_page_says(page):
    assert len(PRINTED) > 3
    assert page["printed"] == PRINTED


def test_a_source_of_the_page_is_opened_by_its_place(page, monkeypatch, tmp_path):
    readers = ((page["is_arrays"], page["Arrays"]), *sources._READERS)
    monkeypatch.setattr(sources, "_READERS", readers)
    page["np"].save(tmp_path / "a.npy", page["np"].zeros((3, 8, 8, 3), "uint8"))
    source = sources.open_source(f"npy:{tmp_path}", "video")
    assert source[0].array.shape == (3, 8, 8, 3)


def test_a_family_of_the_page_is_recognized(page, monkeypatch):
    monkeypatch.setattr("cvvae_jax.convert.recognition.FAMILIES", (*FAMILIES, page["RENAMED"]))
    family, config = recognize(page["theirs"], source="the file")
    assert (family, config) == (page["RENAMED"], page["config"])


def test_brightness_error_is_that_of_whole_frames(page):
    error, jnp = page["brightness_error"], page["jnp"]
    video = jnp.zeros((1, 4, 8, 8, 3))
    by_frame = jnp.asarray([-1.0, 1, -1, 1]).reshape(1, 4, 1, 1, 1)
    assert error(video + 0.5, video) == 0.5
    assert error(video + by_frame, video) == 1
    assert error(video + jnp.asarray([-1.0, 0, 1]).reshape(1, 1, 1, 1, 3), video) == 0


@pytest.mark.parametrize(("before", "diff"), blocks("diff"))
def test_diffs_fit_their_files(before, diff):
    path = ROOT / re.findall(r"`(cvvae_jax/[\w/]+\.py)`", before)[-1]
    old = [line[1:] for line in diff.splitlines() if line[0] in " -"]
    assert path.read_text().count("\n".join(old)) == 1, path


def test_files_that_the_page_links_are_there():
    linked = re.findall(r"\]\((?!#)([^)#]+)", TEXT)
    assert not [name for name in linked if not (ROOT / "docs" / name).exists()]

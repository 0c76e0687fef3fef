"""docs/python.md: its Python runs in order, with a smaller recipe, and gives what it promises."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_training import SMALLEST_IMAGE, frozen_networks, short_run

import cvvae_jax
from cvvae_jax import notebook, recipe
from cvvae_jax.config import places

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
PRINTED = re.findall(r"print\(.*\)  # (.*)", TEXT)


def smaller(name):
    assert name == "quickstart"
    config = short_run(Path("runs/default"), "replaced by the page", gan="none")
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=2))


@pytest.fixture(scope="module")
def page(tmp_path_factory, with_reference_convolutions) -> dict:
    """The names that the page defines, and what it prints and shows."""
    names, printed, shown = {}, [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("python"))
        patch.setattr(recipe, "load_recipe", smaller)
        patch.setattr(notebook, "show", lambda *videos: shown.append(notebook.inline(*videos)))
        image_vae = frozen_networks(SMALLEST_IMAGE).image_vae
        cvvae_jax.save(image_vae, "pretrained/image_vae")
        patch.setattr(places, "pretrained_folder", lambda: Path("pretrained").absolute())
        names["print"] = lambda *values: printed.append(" ".join(map(str, values)))
        for block in BLOCKS:
            exec(block, names)
        yield names | {"printed": printed, "shown": shown, "saved": cvvae_jax.load("runs/loop")}


def test_page_prints_what_it_says(page):
    assert [line for line in page["printed"] if not line.startswith("step ")] == PRINTED
    losses = [float(line.split()[-1]) for line in page["printed"] if line.startswith("step ")]
    assert len(losses) == 2 and np.isfinite(losses).all()


def test_loop_of_the_page_has_ten_lines():
    [block] = [block for block in BLOCKS if "for n, batch" in block]
    *_, loop = block.split("\n\n")
    assert len(loop.splitlines()) <= 12  # two of them print and save


def test_added_term_is_in_the_total(page):
    """`loss/total` is nll + kl_weight * KL + 1000 edges."""
    metrics = page["metrics"]
    edges = 1000 * metrics["loss/edges"]
    rest = metrics["loss/nll"] + page["config"].loss.kl_weight * metrics["loss/kl"]
    assert edges > 0.01 * metrics["loss/total"]
    np.testing.assert_allclose(metrics["loss/total"], rest + edges, rtol=1e-5)


def test_state_of_the_page_is_divided_among_devices(page):
    leaves = [leaf for leaf in jax.tree.leaves(page["state"]) if hasattr(leaf, "sharding")]
    assert {leaf.sharding.mesh.shape["fsdp"] for leaf in leaves} == {2}


def test_saved_model_is_the_averaged_one_of_the_loop(page):
    assert isinstance(page["saved"], cvvae_jax.VideoVAE)
    assert page["saved"].config == page["model"].config


def test_page_shows_input_and_reconstruction(page):
    [picture] = page["shown"]
    assert picture.mime_type == "image/png" and picture.description.startswith("<17 frames of ")


def test_links_of_the_page_lead_somewhere():
    links = [link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", TEXT)]
    for name, _, heading in links:
        text = (ROOT / "docs" / name).read_text()
        assert not heading or f"## {heading.replace('-', ' ')}" in text.lower()

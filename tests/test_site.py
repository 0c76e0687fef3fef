"""The site documents what the package exports; Sphinx itself checks the rest (`.ci/run`)."""

import re
from pathlib import Path

import cvvae_jax

SITE = Path(__file__).parents[1] / "site"


def test_every_public_name_has_its_place_on_an_api_page():
    pages = "\n".join(page.read_text() for page in (SITE / "api").glob("*.md"))
    named = re.findall(r"^\.\. auto(?:class|function):: cvvae_jax\.(\w+)$", pages, re.MULTILINE)
    assert sorted(named) == sorted(cvvae_jax.__all__)

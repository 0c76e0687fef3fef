"""Model cards say where a model comes from, and under which license."""

import json

import pytest
from flax import nnx

from cvvae_jax.config import DiscriminatorConfig, ImageVAEConfig
from cvvae_jax.convert import families
from cvvae_jax.convert.card import HeadsOrigin, Origin, license_name, model_card, stated_license
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.image_vae import ImageVAE


def readme(folder, text: str, encoding: str = "utf-8"):
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(text, encoding=encoding)


def card(license: dict[str, str], *, to: str = "jax", discriminator: bool = False) -> str:
    origin = Origin("CV-VAE/vae3d", "ab12", license, "CV-VAE SD2.1", to)
    if discriminator:
        model = Discriminator(DiscriminatorConfig(base_channels=32, layers=2), rngs=nnx.Rngs(0))
        return model_card(origin, model, families.DISCRIMINATOR, name="mine")
    model = ImageVAE(ImageVAEConfig(block_channels=(32,), blocks_per_level=1), rngs=nnx.Rngs(0))
    return model_card(origin, model, families.IMAGE, name="mine")


@pytest.mark.parametrize("where", [".", "vae3d"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_license_of_the_card_beside_or_above_is_read(tmp_path, where, encoding):
    head = "license: other\nlicense_name: flux-1-dev\nlicense_link: https://x.org/a"
    readme(tmp_path, f"---\n{head}\ntags: [a]\n---\n", encoding)
    (tmp_path / where).mkdir(exist_ok=True)
    stated = stated_license(tmp_path / where, {})
    assert card(stated).startswith(f"---\n{head}\ntags:")


def test_a_card_beside_the_weights_counts_more_than_one_above(tmp_path):
    readme(tmp_path, "---\nlicense: mit\n---\n")
    readme(tmp_path / "mine", "# No license here\n")
    assert stated_license(tmp_path / "mine", {}) == {}
    assert "license | not stated" in card({})


def test_the_weights_own_metadata_counts_most(tmp_path):
    readme(tmp_path, "---\nlicense: mit\n---\n")
    stated = stated_license(tmp_path, {"license": "CreativeML: see | below\nfoo: bar"})
    assert license_name(stated) == "CreativeML: see | below foo: bar"
    text = card(stated)
    assert text.startswith('---\nlicense: "CreativeML: see | below foo: bar"\ntags:')
    assert "| license | CreativeML: see \\| below foo: bar |" in text


def test_cards_say_how_to_load_on_both_sides():
    assert 'cvvae_jax.load("mine")' in card({})
    assert "after `python -m cvvae_jax convert mine mine-torch`" in card({})
    assert 'AutoencoderKL.from_pretrained("mine-torch")' in card({})
    assert 'AutoencoderKL.from_pretrained("mine")' in card({}, to="torch")
    assert "convert mine mine-torch" in card({}, discriminator=True)
    assert "convert mine" not in card({}, to="torch", discriminator=True)


def test_cards_name_their_source():
    text = card({"license": "mit"})
    for words in ("CV-VAE/vae3d (CV-VAE SD2.1)", "ab12", "ImageVAE", "| license | mit |"):
        assert words in text
    assert json.dumps("mit") not in text


VGG16 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
HEADS = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"


def two_sources(network: dict[str, str], heads: dict[str, str], *, digest: str = "") -> str:
    second = HeadsOrigin("vgg.pth", digest or HEADS, heads)
    origin = Origin("vgg16.pth", digest or VGG16, network, "LPIPS", "jax", second)
    model = ImageVAE(ImageVAEConfig(block_channels=(32,), blocks_per_level=1), rngs=nnx.Rngs(0))
    return model_card(origin, model, families.PERCEPTUAL, name="mine")


def test_licenses_of_published_files_are_known_by_their_hashes():
    text = two_sources({}, {})
    assert text.startswith("---\ntags:")
    assert "| license | network: not stated for these weights; torchvision, which" in text
    assert "; heads: BSD-2-Clause, the license of the Python package lpips" in text
    assert "network: not stated; heads: not stated |" in two_sources({}, {}, digest="ab12")


def test_what_a_source_states_counts_more_than_its_hash():
    text = two_sources({"license": "mit"}, {"license": "other"})
    assert "| license | network: mit; heads: other |" in text


def test_the_head_of_a_card_names_a_license_that_both_sources_have():
    assert two_sources({"license": "mit"}, {"license": "mit"}).startswith("---\nlicense: mit\n")
    assert two_sources({"license": "mit"}, {"license": "other"}).startswith("---\ntags:")
    assert two_sources({"license": "mit"}, {}).startswith("---\ntags:")

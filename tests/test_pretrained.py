"""The models that come with the package are small, have a card, and do what it says."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import cvvae_jax
from cvvae_jax import parameter_paths
from cvvae_jax.loading import open_model
from cvvae_jax.metrics import color
from cvvae_jax.models.inputs import to_float
from cvvae_jax.resources import pretrained_folder

CARD = (pretrained_folder() / "README.md").read_text()


def test_models_are_below_4_megabytes_and_have_a_license():
    files = [path for path in Path(pretrained_folder()).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4e6
    assert open_model("pretrained:image_vae").license == {"license": "apache-2.0"}


def test_models_name_no_folder_of_the_machine_that_made_them():
    """Orbax writes the place into its files."""
    files = [path for path in Path(pretrained_folder()).rglob("*") if path.is_file()]
    found = [
        str(path) for path in files if re.search(rb"/(tmp|root|home|Users)/", path.read_bytes())
    ]
    assert files and not found


def test_card_has_the_size_and_the_colors_of_the_model():
    vae = cvvae_jax.load("pretrained:image_vae")
    assert f"{parameter_paths.count(vae) / 1e6:.2f} M parameters" in CARD
    chart = color.chart(1, 128, 128)
    recon = jax.jit(lambda vae, video: vae.decode(vae.encode(video).mode()))(
        vae, to_float(jnp.asarray(chart[None]))
    )
    seen = np.clip(np.round((np.asarray(recon)[0, 0] + 1) * 127.5), 0, 255)
    weights = color.patch_weights(128, 128)
    colors = [np.einsum("phw,hwc->pc", weights, frame) for frame in (seen, chart[0].astype(float))]
    errors = color.patch_errors(*colors)
    [(hue, chroma)] = re.findall(r"^\| worst patch .*? \| ([\d.]+); ([\d.]+) \|", CARD, re.M)
    # As the card rounds them, and what another compiler's sums may move.
    np.testing.assert_allclose(errors.worst_hue, float(hue), atol=0.1)
    np.testing.assert_allclose(errors.worst_chroma, float(chroma), atol=0.01)

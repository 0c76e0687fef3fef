"""What docs/inference.md and the README say of inference can be typed in."""

import dataclasses
import importlib
import re
from pathlib import Path

import jax
import pytest
from flax import nnx
from tiny_models import save_tiny_vae
from tiny_videos import make_video

from cvvae_jax.checkpoint import save_model
from cvvae_jax.config import ImageVAEConfig, places
from cvvae_jax.models.image_vae import ImageVAE

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/inference.md")
COMMANDS = ("encode", "decode", "reconstruct")


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder with a run, of tiny models, and a video."""
    save_tiny_vae(tmp_path / "runs/quickstart")
    config = ImageVAEConfig(block_channels=(8, 8, 8, 8), blocks_per_level=1, norm_groups=4)
    shapes = jax.eval_shape(lambda: ImageVAE(config, rngs=nnx.Rngs(0)))
    model = jax.tree.map(lambda x: jax.numpy.full(x.shape, 0.01, x.dtype), shapes)
    save_model(tmp_path / "pretrained/image_vae", model)
    monkeypatch.setattr(places, "pretrained_folder", lambda: tmp_path / "pretrained")
    make_video(tmp_path / "in.mp4", frames=11, height=37, width=51)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_documented_python_of_inference_runs(workplace):
    names = {}
    here, in_torch, *_ = blocks("docs/inference.md", "python")
    exec(here, names)
    assert names["recon"].shape == names["video"].shape == (1, 11, 37, 51, 3)
    assert names["alone"].shape == (1, 4, 37, 51, 3)
    assert names["loaded"].scaled
    pytest.importorskip("torch")
    exec(in_torch, names)
    assert names["video_latents"].shape == (1, 4, 4, 5, 7)
    assert (workplace / "back.safetensors").is_file()


@pytest.mark.slow
def test_ten_lines_of_python_run(workplace):
    names = {}
    exec(blocks("README.md", "python")[0], names)
    assert names["frames"].shape[1] == 5
    assert names["same_shape"].shape[1:] == (11, 50, 37, 3)


@pytest.mark.parametrize("page", PAGES)
def test_documented_options_are_those_of_the_commands(page):
    text = (ROOT / page).read_text()
    lines = re.findall(rf"python -m cvvae_jax ({'|'.join(COMMANDS)}) ([^#\n`]*)", text)
    assert lines
    for command, arguments in lines:
        module = importlib.import_module(f"cvvae_jax.cli.{command}")
        fields = dataclasses.fields(getattr(module, f"{command.capitalize()}Arguments"))
        known = {"--" + field.name.replace("_", "-") for field in fields}
        assert set(re.findall(r"--[a-z-]+", arguments)) <= known, f"{command} {arguments}"

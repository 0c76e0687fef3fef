"""docs/diffusion.md: its Python runs in order on tiny pipelines; its options are the scripts."""

import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra")
diffusers = pytest.importorskip("diffusers", reason="diffusers is an optional extra")
pytest.importorskip("transformers", reason="transformers is an optional extra")

import tiny_pipelines as tiny  # noqa: E402

from cvvae_jax.cli.main import main as command  # noqa: E402
from cvvae_jax.video_io.video import read_frames  # noqa: E402

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "diffusion.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SCRIPTS = ("stable_diffusion", "stable_video_diffusion", "text_to_video", "exported_vae")
HEADERS = [(ROOT / "examples" / f"{name}.py").read_text() for name in SCRIPTS]


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder with pipelines and VAEs of the page's names, and a picture."""
    tiny.save_all(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_of_the_page_runs(workplace):
    *pytorch, in_jax = BLOCKS
    names = {}
    for block in pytorch:
        exec(block, names)
    assert names["images"].shape == (1, 1, 32, 32, 3)
    assert names["key_frames"].shape == (5, 4, 4, 6)  # of the last block that names them so
    assert names["frames"].shape == (1, 14, 4, 4, 6)
    assert names["edited"].shape == (5, 4, 4, 6) and names["video"].shape == (1, 17, 16, 24, 3)

    names["denoise"] = lambda params, noise, text, schedule: 0.5 * noise
    exec(in_jax, names)
    noise = np.random.default_rng(0).standard_normal((1, 4, 4, 6), np.float32)
    pixels = names["pixels"](names["vae"], None, noise, None, None)
    latents = np.moveaxis(noise, 1, -1)[:, None] * np.float32(0.5 / 0.18215)
    wanted = names["vae"].decode(latents)
    assert pixels.shape == (1, 1, 16, 24, 3)
    np.testing.assert_allclose(pixels, wanted, atol=1e-5 * float(np.abs(wanted).max()))


def test_latents_of_the_page_are_decoded_by_its_commands(workplace):
    """As a file without words, scaled: of 14 latent frames come 53 frames, or 14."""
    numbers = np.random.default_rng(0).standard_normal((14, 4, 6, 4), np.float32)
    np.savez("fox.npz", latents=numbers)
    lines = re.findall(r"^python -m cvvae_jax (decode fox\.safetensors .*)$", TEXT, re.MULTILINE)
    for line, count in zip(lines, (53, 14), strict=True):
        assert command(line.replace("fox.safetensors", "fox.npz").split()) == 0
        target = Path(line.split()[2])
        assert len(list(read_frames(target))) == count


@pytest.mark.parametrize("text", [TEXT, *HEADERS], ids=["page", *SCRIPTS])
def test_options_are_those_of_the_scripts(text):
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"python -m examples\.(\w+) ([^\n]*)", joined)
    assert lines
    for name, arguments in lines:
        known = inspect.signature(importlib.import_module(f"examples.{name}").main).parameters
        needed = {option for option, kind in known.items() if kind.default is kind.empty}
        given = {option.replace("-", "_") for option in re.findall(r"--([a-z-]+)", arguments)}
        assert needed <= given <= set(known)


def test_scripts_of_the_page_are_all_there_are():
    there = {path.stem for path in (ROOT / "examples").glob("*.py")} - {"__init__"}
    assert there == set(SCRIPTS) == set(re.findall(r"\(\.\./examples/(\w+)\.py\)", TEXT))


def test_links_of_the_page_lead_somewhere():
    for link in re.findall(r"\]\(([^)h][^)]*)\)", TEXT):
        assert (ROOT / "docs" / link.partition("#")[0]).exists(), link

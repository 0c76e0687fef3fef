"""Each example as a user starts it: the commands of docs/diffusion.md, on tiny pipelines of the
same names."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra")
diffusers = pytest.importorskip("diffusers", reason="diffusers is an optional extra")
pytest.importorskip("transformers", reason="transformers is an optional extra")

import tiny_pipelines as tiny  # noqa: E402
from PIL import Image  # noqa: E402

from cvvae_jax.video_io.video import probe, read_frames  # noqa: E402

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "diffusion.md").read_text()
COMMANDS = re.findall(r"^python -m ((?:examples\.|cvvae_jax convert).*)$", TEXT, re.MULTILINE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("examples")
    tiny.save_all(folder)
    return folder


def run(folder: Path, command: str, *options: str) -> None:
    """Run a command of the page in a folder, on one thread."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-m", *shlex.split(command), *options]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def of_script(name: str) -> str:
    [command] = [command for command in COMMANDS if command.startswith(f"{name} ")]
    return command


def test_stable_diffusion(workplace):
    run(workplace, of_script("examples.stable_diffusion"), "--steps", "2")
    assert Image.open(workplace / "out.png").size == (32, 32)


def test_stable_video_diffusion(workplace):
    command = of_script("examples.stable_video_diffusion")
    run(workplace, command, "--steps", "2", "--frames", "3")
    for name, frames, rate in (("out.mp4", 9, 28), ("key_frames.mp4", 3, 7)):
        assert len(list(read_frames(workplace / name))) == frames
        info = probe(workplace / name)
        assert (info.fps, info.height, info.width) == (rate, 16, 24)


def test_text_to_video(workplace):
    command = of_script("examples.text_to_video")
    run(workplace, command, "--steps", "2", "--frames", "3", "--output", "text.mp4")
    assert len(list(read_frames(workplace / "text.mp4"))) == 9
    assert probe(workplace / "text.mp4").fps == 32


def test_exported_vae(workplace):
    run(workplace, of_script("cvvae_jax convert"))
    command = of_script("examples.exported_vae")
    run(workplace, command, "--steps", "2", "--output", "exported.png")
    assert Image.open(workplace / "exported.png").size == (32, 32)

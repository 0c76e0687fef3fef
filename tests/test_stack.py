"""Once through everything that depends on versions of Python and libraries: files read and written,
training, checkpoints, several devices, conversion, evaluation.

`python -m pytest -m "stack and not slow"` runs it, with other tests of that mark, on the versions
that are installed; it takes minutes.
"""

import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_models import random_model, save_tiny_vae
from tiny_videos import RATE, make_video

import cvvae_jax
from cvvae_jax.checkpoint import save_model
from cvvae_jax.cli.main import main
from cvvae_jax.config import ImageVAEConfig, VideoVAEConfig
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.recipe import load_recipe
from cvvae_jax.video_io.frame_index import count_frames
from cvvae_jax.video_io.video import probe

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[1]
RECIPE = f"""
import dataclasses
from cvvae_jax.config import Bucket
from cvvae_jax.recipe import load_recipe

TINY = {{"block_channels": (8, 8), "blocks_per_level": 1, "norm_groups": 2}}

def get_config():
    base = load_recipe({str(ROOT / "configs" / "quickstart.py")!r})
    short = {{"steps": 2, "log_every": 1, "checkpoint_every": 1}}
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, temporal_strides=(2,), **TINY),
        image_vae="image_vae",
        train=dataclasses.replace(base.train, buckets=(Bucket(5, 16, 2),), **short),
        data=dataclasses.replace(base.data, videos="clips", images=None, workers=1, eval_clips=1),
        workdir="run",
    )
"""


def installed_program() -> Path | None:
    """The program of a package that was installed from a wheel of this version."""
    try:
        package = importlib.metadata.distribution("cvvae_jax")
    except importlib.metadata.PackageNotFoundError:
        return None
    origin = json.loads(package.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable") or package.version != cvvae_jax.__version__:
        return None
    return Path(sys.executable).with_name("cvvae-jax")


def run(folder: Path, *command, devices: int = 1, path: str = str(ROOT)) -> str:
    """What a command of a user's prints, in a process of its own; packages are looked for at `path`
    first."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": path}
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def image_vae_config() -> ImageVAEConfig:
    """The quickstart's, at the width of the recipe above."""
    quickstart = load_recipe("quickstart").image_model
    return dataclasses.replace(quickstart, block_channels=(8, 8), blocks_per_level=1, norm_groups=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Four clips, an image VAE, and a recipe that trains on them."""
    folder = tmp_path_factory.mktemp("stack")
    (folder / "clips").mkdir()
    for i in range(4):
        make_video(folder / f"clips/{i}.mp4", frames=9, height=32, width=48)
    (folder / "recipe.py").write_text(RECIPE)
    save_model(folder / "image_vae", random_model(ImageVAE, image_vae_config()))
    return folder


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """The folder, after two steps, and one more from the checkpoint."""
    train = [sys.executable, ROOT / "train.py", "recipe.py"]
    run(folder, *train)
    said = run(folder, *train, "--train.steps", "3")
    assert "step 2 of 3" in said
    return folder


def test_training_goes_on_from_its_checkpoint(trained):
    lines = (trained / "run/metrics.jsonl").read_text().splitlines()
    logged = [line for line in map(json.loads, lines) if "loss/total" in line]
    assert [line["step"] for line in logged] == [1, 2, 3]
    assert all(np.isfinite(line["loss/total"]) for line in logged)
    assert (trained / "run/checkpoints/3/manifest.json").is_file()
    assert type(cvvae_jax.load(trained / "run")).__name__ == "VideoVAE"


def test_video_is_reconstructed_on_two_devices(trained):
    command = [sys.executable, "-m", "cvvae_jax", "reconstruct", "clips/0.mp4", "out.mp4"]
    said = run(trained, *command, "--weights", "run", "--chunk-frames", "4", devices=2)
    assert "Devices: 2 x" in said
    info = probe(trained / "out.mp4")
    assert (info.height, info.width, info.fps) == (32, 48, RATE)
    assert count_frames(trained / "out.mp4") == 9


def test_latents_are_written_and_read(trained):
    command = [sys.executable, "-m", "cvvae_jax", "latents", "clips", "shards"]
    run(trained, *command, "--weights", "run")
    assert len(cvvae_jax.LatentsDataset(trained / "shards")) == 4


def test_one_clip_is_evaluated(trained):
    (trained / "one").mkdir()
    make_video(trained / "one/clip.mp4", frames=5, height=16, width=24)
    protocol = 'frames = 5\nmetrics = ["psnr", "ssim", "time", "compatibility"]\n'
    (trained / "short.toml").write_text(protocol)
    command = [sys.executable, ROOT / "eval.py", "run", "--data", "one"]
    run(trained, *command, "--protocol", "short.toml", "--out", "evaluation")
    assert (trained / "evaluation/report.html").is_file()
    assert json.loads((trained / "evaluation/results.json").read_text())


OFFICIAL = {"block_channels": (32, 32, 32, 32), "blocks_per_level": 1}
"""Norms have 32 groups in official classes."""


@pytest.mark.parametrize(
    "model",
    [(VideoVAE, VideoVAEConfig(**OFFICIAL)), (ImageVAE, ImageVAEConfig(**OFFICIAL))],
    ids=["video", "image"],
)
def test_weights_go_to_pytorch_and_back(tmp_path, model):
    save_model(tmp_path / "ours", random_model(*model))
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "torch")]) == 0
    assert main(["convert", str(tmp_path / "torch"), str(tmp_path / "back")]) == 0
    ours, back = (cvvae_jax.load(tmp_path / name) for name in ("ours", "back"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(installed_program() is None, reason="no wheel is installed")
def test_installed_program_needs_no_clone(tmp_path):
    """An installed program has code, recipes, protocols and documentation in its own folder."""
    program = installed_program()
    code = "import cvvae_jax, cvvae_jax.resources as r; print(cvvae_jax.__file__); "
    code += "print(r.configs_folder()); print(r.documentation('weights.md').resolve(strict=True))"
    places = run(tmp_path, sys.executable, "-c", code, path="").splitlines()
    assert len(places) == 3 and all("site-packages" in place for place in places)
    said = run(tmp_path, program, "train", "quickstart", "--help", path="")
    assert "usage: cvvae-jax train quickstart" in said
    save_tiny_vae(tmp_path / "weights")
    (tmp_path / "one").mkdir()
    make_video(tmp_path / "one/clip.mp4", frames=5, height=24, width=32)
    command = [program, "evaluate", "weights", "--data", "one", "--protocol", "full"]
    run(tmp_path, *command, "--image-vae", "none", "--out", "evaluation", path="")
    assert (tmp_path / "evaluation/report.html").is_file()

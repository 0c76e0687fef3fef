"""Training steps of the official recipes are traced and lowered at their own size, not run: what is
chosen by width, such as forms of convolutions, isn't met by tiny models."""

import dataclasses
from pathlib import Path

import jax
import pytest

from cvvae_jax.models.video_vae import PRESETS
from cvvae_jax.recipe import parse_train_config
from cvvae_jax.training.jobs import plan_run, video_shape
from cvvae_jax.training.programs import abstract_stages

pytestmark = pytest.mark.stack

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = {"sd21": "sd21.py", "sd21_full3d": "ablations/architecture_3d.py", "sd3": "sd3.py"}
MESHES = {
    "data 2": ["--mesh.data", "2"],
    "fsdp 8": ["--mesh.fsdp", "8"],
    "data 2, fsdp 2, space 2": ["--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.space", "2"],
}
QUICK = ("sd21", "fsdp 8", "float32")
CASES = [
    pytest.param(*case, marks=() if case == QUICK else pytest.mark.slow)
    for case in (
        (preset, mesh, dtype)
        for preset in RECIPES
        for mesh in MESHES
        for dtype in ("float32", "bfloat16")
    )
]


def test_every_preset_has_a_recipe():
    assert set(RECIPES) == set(PRESETS)


@pytest.mark.parametrize(("preset", "mesh", "dtype"), CASES)
def test_steps_of_official_models_can_be_lowered_for_every_platform(
    preset, mesh, dtype, tmp_path, monkeypatch
):
    """Steps train both networks at once, with everything that a step can have."""
    monkeypatch.chdir(tmp_path)  # where nothing is that recipes name
    arguments = [str(CONFIGS / RECIPES[preset]), *MESHES[mesh], "--model.dtype", dtype]
    config = parse_train_config([*arguments, "--train.updates", "joint"])
    assert dataclasses.replace(config.model, dtype="float32") == PRESETS[preset]
    stage = abstract_stages(plan_run(config, allow_missing=True), config)[-1]
    bucket = max(config.train.buckets, key=lambda bucket: bucket.frames)
    traced = stage.programs(config).trace("joint", video_shape(bucket))
    winograd = dtype == "float32" and "space" not in mesh
    with jax.set_mesh(stage.job.mesh):
        for platform in ("cpu", "tpu", "cuda"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert ("@convolve" in text) == (winograd and platform == "cpu")

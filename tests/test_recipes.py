"""Every recipe can be planned without its files, and its docstring is true."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cvvae_jax import sharding
from cvvae_jax.config import TrainConfig
from cvvae_jax.models.video_vae import PRESETS
from cvvae_jax.recipe import load_recipe, parse_train_config
from cvvae_jax.training.jobs import plan_run

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.py"))
PARENT = "configs/sd21_paper.py"

# What each ablation changes of its parent.
CHANGES = {
    "architecture_3d": {"model.half_3d": False},
    "compat_both": {"loss.compat_mode": "both", "loss.mapping": "slice"},
    "compat_encoder": {"loss.compat_mode": "encoder", "loss.mapping": "slice"},
    "mapping_first": {"loss.mapping": "first"},
    "mapping_mean": {"loss.mapping": "mean"},
    "mapping_slice": {"loss.mapping": "slice"},
}


def load(recipe: str) -> TrainConfig:
    return load_recipe(str(ROOT / recipe))


def docstring(recipe: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / recipe).read_text()))


def settings(value, prefix="") -> dict:
    """Every setting by its name on the command line."""
    if not dataclasses.is_dataclass(value):
        return {prefix: value}
    found = {}
    for field in dataclasses.fields(value):
        name = f"{prefix}.{field.name}" if prefix else field.name
        found |= settings(getattr(value, field.name), name)
    return found


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(recipe, marks=pytest.mark.slow if "/ablations/" in recipe else ())
        for recipe in RECIPES
    ],
)
def test_recipe_can_be_planned_before_its_files_are_there(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = parse_train_config([str(ROOT / recipe)])
    plan = plan_run(config, allow_missing=True)
    files = (config.image_vae, config.lpips, config.init_weights, config.data.images)
    for path in files:
        there = path is None or Path(path).exists()
        assert there or any(path in line for line in plan.missing)
    batches = tuple(bucket.batch for bucket in config.train.buckets)
    assert sharding.make_mesh(config.mesh, batches=batches, devices=jax.devices()[:1]).size == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_docstring_has_the_command(recipe):
    assert re.search(rf"^ +python train.py {recipe}( |$)", docstring(recipe), flags=re.MULTILINE)


def test_run_folders_are_the_recipes_own():
    folders = [load(recipe).workdir for recipe in RECIPES]
    assert len(set(folders)) == len(folders)


def test_recipes_start_no_jax():
    code = (
        "import sys\nfrom cvvae_jax.recipe import load_recipe\n"
        f"for recipe in {RECIPES}:\n    load_recipe(recipe)\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=300)


def test_every_ablation_is_listed():
    names = {Path(recipe).stem for recipe in RECIPES if "/ablations/" in recipe}
    assert names == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_ablation_changes_what_it_names_and_nothing_else(name):
    recipe = f"configs/ablations/{name}.py"
    parent, ours = settings(load(PARENT)), settings(load(recipe))
    changed = {key: value for key, value in ours.items() if value != parent[key]}
    assert changed.pop("workdir") == f"runs/ablations/{name}"
    assert changed == CHANGES[name]
    words = docstring(recipe)
    assert PARENT in words
    named = re.findall(r"`([a-z_]+\.[a-z0-9_]+)`", words)
    assert set(changed) <= set(named) <= set(ours)


@pytest.mark.parametrize(("recipe", "preset"), [("sd3", "sd3"), ("sd21", "sd21")])
def test_architecture_is_the_official_one(recipe, preset):
    assert load(f"configs/{recipe}.py").model == PRESETS[preset]


@pytest.mark.parametrize(("recipe", "gpus"), [("sd3", 8), ("sd21", 8), ("sd21_paper", 16)])
def test_official_batches_fit_the_official_number_of_devices(recipe, gpus):
    config = load(f"configs/{recipe}.py")
    assert all(bucket.batch % gpus == 0 for bucket in config.train.buckets)
    assert min(bucket.batch for bucket in config.train.buckets) == gpus
    dataclasses.replace(config.train, accumulate=gpus)  # which the docstrings advise, is accepted


def test_fine_tuning_keeps_parameters_in_float32():
    config = load("configs/finetune.py")
    for network in (config.model, config.discriminator):
        assert (network.dtype, network.param_dtype) == ("bfloat16", "float32")
    assert config.loss == load("configs/sd21.py").loss


def test_recipe_against_flicker_tunes_the_decoder_alone_on_as_many_images_as_videos():
    parent, ours = (settings(load(f"configs/{name}.py")) for name in ("finetune", "flicker"))
    changed = {key: value for key, value in ours.items() if value != parent[key]}
    assert changed == {
        "loss.boundary_weight": 1.0,
        "loss.compat_mode": "encoder",
        "loss.difference_weight": 1.0,
        "loss.kl_weight": 0.0,
        "loss.mapping": "slice",
        "train.trainable": "decoder",
        "workdir": "runs/flicker",
    }
    images, videos = ours["train.buckets"]
    assert images.frames == 1 < videos.frames and images.weight == videos.weight

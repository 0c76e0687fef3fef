"""What is installed is what the clone has."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from cvvae_jax.cli.main import COMMANDS, main
from cvvae_jax.cli.program import program
from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.contenders import named_path
from cvvae_jax.recipe import load_recipe, parse_train_config, recipe_names
from cvvae_jax.resources import configs_folder

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_package_asks_for_what_requirements_name():
    """Test tools are an extra of the package."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    named = {line for line in lines if line and not line.startswith("#")}
    tools = set(PROJECT["optional-dependencies"]["test"])
    assert named == set(PROJECT["dependencies"]) | tools
    assert {re.split("[<>=]", tool)[0] for tool in tools} == {"pytest", "pytest-xdist", "beartype"}


def test_recipes_go_by_file_and_by_name():
    assert "quickstart" in recipe_names() and "ablations/mapping_mean" in recipe_names()
    for name in recipe_names():
        assert load_recipe(name) == load_recipe(str(configs_folder() / f"{name}.py"))


@pytest.mark.parametrize("name", ["quickstrat", "configs/nothing.py", ".", "../train", "protocols"])
def test_unknown_recipe_is_refused_with_those_there_are(name):
    with pytest.raises(UserError, match=f"{re.escape(name)} is not a recipe.*quickstart, sd21"):
        load_recipe(name)


@pytest.mark.parametrize(
    ("started", "command", "expected"),
    [
        ("/usr/local/bin/cvvae-jax", "latents", "cvvae-jax latents"),
        (r"cvvae-jax.exe", "train", "cvvae-jax train"),
        ("train.py", "train", "python train.py"),
        ("/clone/eval.py", "evaluate", "python eval.py"),
        ("/site-packages/cvvae_jax/__main__.py", "data check", "python -m cvvae_jax data check"),
        ("/site-packages/cvvae_jax/__main__.py", "", "python -m cvvae_jax"),
    ],
)
def test_usages_name_the_program_that_was_started(monkeypatch, started, command, expected):
    monkeypatch.setattr(sys, "argv", [started])
    assert program(command) == expected


def test_usage_of_training_names_program_flags_and_recipes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/cvvae-jax", "train"])
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: cvvae-jax train RECIPE")
    assert "ablations/mapping_mean" in said and "quickstart" in said
    assert "\n  --dry-run " in said and "\n  --distributed " in said


def test_every_command_has_a_module_and_is_in_the_help(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in said
        assert (ROOT / "cvvae_jax" / "cli" / f"{name}.py").is_file()


def test_help_is_that_of_the_recipe_by_name(capsys):
    with pytest.raises(SystemExit) as done:
        parse_train_config(["quickstart", "--help"], "cvvae-jax train", flags={"--flag": "Does."})
    assert done.value.code == 0
    said = capsys.readouterr().out
    assert "usage: cvvae-jax train quickstart [--flag]" in said
    assert re.search(r"--flag +Does\.", said)


def test_contender_may_be_a_recipe_by_its_name(tmp_path, monkeypatch):
    """It stands for its run folder; a file or folder of that name comes first."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="quickstart has not been run: there is no folder runs/"):
        named_path("quickstart")
    (tmp_path / "runs/quickstart").mkdir(parents=True)
    assert named_path("mine=quickstart") == ("mine", Path("runs/quickstart"))
    (tmp_path / "quickstart").mkdir()
    assert named_path("quickstart") == ("quickstart", Path("quickstart"))

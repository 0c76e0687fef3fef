"""Recipes: Python files that return a configuration, and its overrides on the command line.

A recipe is a file with a function `get_config() -> TrainConfig`. Every setting can be overridden on
the command line: `python train.py configs/quickstart.py --train.steps 200 --data.videos DIR`. The
recipes in `configs/` can be named without folder and suffix: `cvvae-jax train quickstart`.
"""

import dataclasses
import inspect
import json
import runpy
from pathlib import Path
from typing import Any

from cvvae_jax import arguments
from cvvae_jax.config import TrainConfig
from cvvae_jax.config.places import at_home
from cvvae_jax.config.reading import build, parse
from cvvae_jax.errors import ConfigError
from cvvae_jax.resources import configs_folder


def recipe_names() -> list[str]:
    """Names of the package's recipes, such as `quickstart` or `ablations/mapping_mean`; those in
    subfolders come last."""
    folder = configs_folder()
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in _files(folder)]
    return sorted(names, key=lambda name: ("/" in name, name))


def load_recipe(recipe: str) -> TrainConfig:
    """The configuration of a recipe.

    Args:
        recipe: a file, or one of `recipe_names()`.

    Raises:
        ConfigError: there is no such recipe, or it defines no `get_config`.
    """
    get_config = runpy.run_path(str(_recipe_file(recipe))).get("get_config")
    if get_config is None:
        raise ConfigError(f"{recipe} is not a recipe: it defines no get_config().")
    return get_config()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.py") if "__pycache__" not in path.parts]


def _recipe_file(recipe: str) -> Path:
    """The file at a path, or the file of the recipe of that name."""
    file = Path(at_home(recipe))
    if file.is_file():
        return file
    if recipe in recipe_names():
        return configs_folder() / f"{recipe}.py"
    meant = arguments.nearest(recipe, recipe_names())
    hint = f" Did you mean {meant[0]}?" if meant else ""
    raise ConfigError(
        f"{recipe} is not a recipe: there is no such file, and the recipes by name are "
        f"{', '.join(recipe_names())}.{hint}"
    )


def parse_train_config(
    argv: list[str], prog: str = "python train.py", *, flags: dict[str, str] | None = None
) -> TrainConfig:
    """The configuration of a recipe with overrides: `RECIPE [--section.field VALUE ..]`.

    Args:
        argv: the arguments of the command.
        prog: the program and command, as the usage message shows them.
        flags: further flags of the command with their help; the caller has removed them from
            `argv`.

    Raises:
        ConfigError: no recipe is named, it can't be read, or a setting does not exist.
        SystemExit: an override is malformed (tyro prints why), or help was asked for.
    """
    explained = [f"  {flag:<16}{meaning}" for flag, meaning in (flags or {}).items()]
    options = "".join(f" [{flag}]" for flag in flags or {})
    usage = (
        f"usage: {prog} RECIPE{options} [--section.field VALUE ..], with a recipe of your own (a "
        f"file) or one of these: {', '.join(recipe_names())}."
    )
    match argv:
        case [("-h" | "--help"), *_]:
            rest = f"{prog} RECIPE --help documents every setting."
            print("\n".join([usage, "", *explained, *[""][: len(explained)], rest]))
            raise SystemExit(0)
        case [recipe, *overrides] if not recipe.startswith("-"):
            return arguments.parse(
                TrainConfig,
                overrides,
                default=load_recipe(recipe),
                prog=f"{prog} {recipe}{options}",
                description="\n".join([inspect.getdoc(TrainConfig), "", *explained]),
            )
        case _:
            raise ConfigError(f"a recipe is missing; {usage}")


def to_json(config: Any) -> str:
    """A configuration dataclass as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(kind: type, text: str) -> Any:
    """The inverse of `to_json` for a configuration dataclass of type `kind`.

    Raises:
        UserError: the text is no JSON, or a field is unknown, missing, of another type or out of
            its range.
    """
    return build(kind, parse(text, f"a {kind.__name__}"))

"""Recipes: Python files that make a configuration, the command line over them, and JSON.

A recipe is a file with a function `get_config() -> TrainConfig`. On the command line every field
can be overridden: `python train.py configs/quickstart.py --train.steps 200 --data.videos DIR`.
"""

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import tyro

from cvvae_jax.config import Bucket, ConfigError, TrainConfig


def load_recipe(path: str) -> TrainConfig:
    """The configuration of a recipe file.

    Raises:
        ConfigError: the file is missing or has no `get_config`.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{path} is not a recipe: no such file (configs/quickstart.py is one).")
    get_config = runpy.run_path(path).get("get_config")
    if get_config is None:
        raise ConfigError(f"{path} is not a recipe: it defines no get_config().")
    return get_config()


def parse_train_config(argv: list[str], prog: str = "train.py") -> TrainConfig:
    """A recipe with command-line overrides: `RECIPE [--section.field VALUE ..]`.

    Raises:
        ConfigError: no recipe is named, or it cannot be read.
        SystemExit: an override is malformed (tyro prints why), or help was asked for.
    """
    usage = (
        f"usage: python {prog} RECIPE [--section.field VALUE ..], "
        "with a recipe such as configs/quickstart.py."
    )
    match argv:
        case [("-h" | "--help"), *_]:
            print(f"{usage}\n\npython {prog} RECIPE --help documents every field.")
            raise SystemExit(0)
        case [recipe, *overrides] if not recipe.startswith("-"):
            default = load_recipe(recipe)
            return tyro.cli(TrainConfig, default=default, args=overrides, prog=f"{prog} {recipe}")
        case _:
            raise ConfigError(f"a recipe is missing; {usage}")


def to_json(config: Any) -> str:
    """A configuration dataclass as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(kind: type, text: str) -> Any:
    """The inverse of `to_json` for a dataclass `kind` of config.py.

    Raises:
        ConfigError: a field is unknown or missing.
    """
    return _build(kind, json.loads(text))


def _build(kind: Any, value: Any) -> Any:
    """`value`, as JSON gives it, as the type `kind`; lists become tuples."""
    if not dataclasses.is_dataclass(kind):
        return tuple(value) if isinstance(value, list) else value
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    if unknown := sorted(set(value) - set(types)):
        raise ConfigError(f"{kind.__name__} has no setting {', '.join(unknown)}.")
    fields = {name: _build(types[name], part) for name, part in value.items() if name != "buckets"}
    if "buckets" in value:
        fields["buckets"] = tuple(_build(Bucket, bucket) for bucket in value["buckets"])
    return kind(**fields)

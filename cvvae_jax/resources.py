"""Folders that come with the package: beside it in a clone and inside of it when it is installed,
or always inside of it."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def configs_folder() -> Path:
    """The folder of recipes, whose subfolder `protocols` has the protocols of evaluations."""
    return _folder("configs")


def pretrained_folder() -> Path:
    """The folder of models that come with the package, which paths name `pretrained:NAME`."""
    return _PACKAGE / "pretrained"


def documentation(page: str) -> Path:
    """The path of a page of the documentation, such as `weights.md`."""
    return _folder("docs") / page


def _folder(name: str) -> Path:
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name

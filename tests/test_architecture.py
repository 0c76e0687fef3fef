"""docs/architecture.md names every file of the package, and none that is not there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def table() -> dict[str, set[str]]:
    """The files of every part by the rows of the table; a part that is one file names itself."""
    found: dict[str, set[str]] = {}
    for row in re.findall(r"^\| `.*\|$", PAGE.split("## Ways")[0], re.MULTILINE):
        parts, _, files = row.strip("|").split("|")
        folders = [name for name in re.findall(r"`([^`]+)`", parts) if name.endswith("/")]
        groups = files.split(";", len(folders) - 1) if len(folders) > 1 else [files] * len(folders)
        for folder, group in zip(folders, groups, strict=True):
            found[folder.rstrip("/")] = set(re.findall(r"`([^`]+)`", group))
        found.setdefault("", set()).update(
            name for name in re.findall(r"`([^`]+)`", parts) if not name.endswith("/")
        )
    return found


def test_every_file_of_the_package_is_in_the_table():
    there: dict[str, set[str]] = {}
    for path in (ROOT / "cvvae_jax").rglob("*.py"):
        if not path.name.startswith("__"):
            folder = path.parent.relative_to(ROOT / "cvvae_jax").as_posix().replace(".", "")
            there.setdefault(folder, set()).add(path.stem)
    assert table() == there


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([a-z_]+(?:/[a-z_]+)+)`", PAGE))))
def test_files_that_ways_lead_through_exist(name):
    path = ROOT / "cvvae_jax" / name
    assert path.is_dir() or path.with_suffix(".py").exists() or (ROOT / name).is_dir()

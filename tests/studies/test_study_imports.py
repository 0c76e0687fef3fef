"""Studies are clients of the package like anyone else: they use its public API alone."""

import ast
import sys
from pathlib import Path

import cvvae_jax

STUDIES = Path(__file__).parents[2] / "studies"
PUBLIC = ("cvvae_jax.config", "cvvae_jax.data", "cvvae_jax.errors", "cvvae_jax.metrics")
RUNS = "cvvae_jax.training.loop.train"
"""Starts a training run from Python."""
LIBRARIES = {
    "av",
    "einops",
    "flax",
    "jax",
    "jaxtyping",
    "matplotlib",
    "numpy",
    "optax",
    "PIL",
    "scipy",
}


def imported(path: Path) -> set[str]:
    """Full names of all that a file imports from the package, and what it reads off it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cvvae_jax":
            found.add(f"cvvae_jax.{node.attr}")
    return found


def is_public(name: str) -> bool:
    parts = name.split(".")
    if any(part.startswith("_") for part in parts[1:]):
        return False
    if len(parts) <= 2 and (len(parts) == 1 or parts[1] in cvvae_jax.__all__):
        return True
    return name == RUNS or any(f"{name}.".startswith(f"{base}.") for base in PUBLIC)


def test_studies_use_the_public_api_alone():
    wrong = [
        f"{path.relative_to(STUDIES)}: {name}"
        for path in STUDIES.rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] == "cvvae_jax" and not is_public(name)
    ]
    assert not wrong


def test_what_is_private_is_told():
    assert is_public("cvvae_jax.load") and is_public("cvvae_jax.metrics.latents.mmd")
    for name in ("cvvae_jax.models.blocks", "cvvae_jax.metrics.latents._risk", "cvvae_jax.nothing"):
        assert not is_public(name)


def test_studies_need_no_further_libraries():
    """Those that requirements.txt installs."""
    roots = {name.split(".")[0] for path in STUDIES.rglob("*.py") for name in imported(path)}
    assert roots <= LIBRARIES | {"cvvae_jax", "studies"} | set(sys.stdlib_module_names)


def test_the_package_knows_nothing_of_studies():
    package = STUDIES.parent / "cvvae_jax"
    assert not [
        path
        for path in package.rglob("*.py")
        if any(name.split(".")[0] == "studies" for name in imported(path))
    ]

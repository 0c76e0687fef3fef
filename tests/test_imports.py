"""Who may import whom: the layers of the package, read from its imports."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1] / "cvvae_jax"

# A part may import itself and these; a file of a part is named where the part as a whole may not
# be.
ALLOWED = {
    "errors": set(),
    "config": {"errors", "resources"},
    "resources": set(),
    "arguments": {"errors"},
    "recipe": {"arguments", "config", "errors", "resources"},
    "compiling": {"config.places", "resumable.files"},
    "hardware": set(),
    "frame_groups": set(),
    "parameter_paths": set(),
    "split_frames": set(),
    "processes": {"errors"},
    "resumable": {"config", "errors"},
    "sharding": {"config", "errors", "parameter_paths", "split_frames"},
    "checkpoint": {"config", "errors", "parameter_paths", "processes.broadcast", "resumable"},
    "models": {"config", "errors", "parameter_paths", "split_frames"},
    "losses": {
        "config",
        "models.feature_networks",
        "models.gaussian",
        "models.remat",
        "split_frames",
    },
    "metrics": {"config", "errors", "losses", "models.feature_networks", "split_frames"},
    "video_io": {"config", "errors", "resumable"},
    "data": {"config", "errors", "resumable", "video_io"},
    "convert": {
        "checkpoint",
        "config",
        "errors",
        "losses",
        "models",
        "parameter_paths",
        "resumable",
    },
    "loading": {
        "checkpoint",
        "config",
        "convert",
        "errors",
        "parameter_paths",
        "recipe",
        "sharding",
    },
    "notebook": {"errors", "models.inputs", "video_io.web_video"},
    "codec": {"compiling", "config", "errors", "models", "split_frames"},
    "latents": {"codec", "config", "data", "errors", "resumable", "video_io"},
    "training": {
        "checkpoint",
        "compiling",
        "config",
        "data",
        "errors",
        "frame_groups",
        "hardware",
        "loading",
        "losses",
        "metrics",
        "models",
        "parameter_paths",
        "processes",
        "recipe",
        "resources",
        "resumable",
        "split_frames",
        "sharding",
        "video_io.media_types",
    },
    "evaluation": {
        "checkpoint.origin",
        "codec",
        "compiling",
        "config",
        "convert.card",
        "data",
        "errors",
        "frame_groups",
        "loading",
        "losses",
        "metrics",
        "models",
        "parameter_paths",
        "recipe",
        "resumable",
        "video_io",
    },
    "preflight": {
        "config",
        "errors",
        "hardware",
        "models.feature_networks",
        "parameter_paths",
        "recipe",
        "split_frames",
        "sharding",
        "training",
    },
}
ONLY_IMPORTER = {
    "orbax": {"checkpoint"},
    "torch": {"convert"},
    "grain": {"data"},
    "av": {"video_io"},
    "array_record": {"data", "latents"},
    "tensorflow_datasets": {"data"},
    "fsspec": {"data", "resumable"},
    "apache_beam": {"data"},
    "cv2": {"metrics"},
    "matplotlib": {"evaluation"},
    "jinja2": {"evaluation"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parts() -> dict[str, list[Path]]:
    files = {}
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        files.setdefault(part, []).append(path)
    return files


def test_every_part_has_a_rule():
    free = {"cli", "__init__", "__main__"}
    assert not set(parts()) - set(ALLOWED) - free


def test_parts_import_only_what_is_below_them():
    wrong = []
    for part, allowed in ALLOWED.items():
        for path in parts().get(part, []):
            for name in imports(path):
                inner = name.removeprefix("cvvae_jax.")
                fits = any(f"{inner}.".startswith(f"{base}.") for base in {part, *allowed})
                if name.startswith("cvvae_jax.") and not fits:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_libraries_with_one_home_stay_there():
    wrong = []
    for part, files in parts().items():
        for path in files:
            roots = {name.split(".")[0] for name in imports(path)}
            wrong += [
                f"{path}: {lib}"
                for lib, homes in ONLY_IMPORTER.items()
                if lib in roots and part not in homes
            ]
    assert not wrong


def test_nobody_imports_the_command_line():
    for part, files in parts().items():
        if part not in ("cli", "__main__"):
            assert not any(
                name.startswith("cvvae_jax.cli") for f in files for name in imports(f)
            ), part

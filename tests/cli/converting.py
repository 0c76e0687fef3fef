"""Running `convert` on a small AutoencoderKL, and what must hold afterwards."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from cvvae_jax.cli.main import main
from cvvae_jax.convert.export import WEIGHTS

ROOT = Path(__file__).parents[2]
IMAGE_VAE = "autoencoderkl_sd_tiny"


def write(folder: Path, tensors: dict, **config) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps({"scaling_factor": 0.18215, **config}))
    return folder


def run(*arguments) -> int:
    return main(["convert", *map(str, arguments)])


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_refused(capsys, folder: Path, *arguments, says: str) -> None:
    """One error, exit status 2, and no file written, changed or lost."""
    before = snapshot(folder)
    capsys.readouterr()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error:") == 1 and "Traceback" not in captured.err
    assert says in captured.err
    assert snapshot(folder) == before


def assert_same(read: dict, tensors: dict) -> None:
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(read[name], tensor, err_msg=name)

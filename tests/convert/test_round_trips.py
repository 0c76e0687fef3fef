"""From PyTorch to JAX and back, exactly: every official layout, in every kind of file."""

import functools
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from cvvae_jax.cli.main import main
from cvvae_jax.convert.export import WEIGHTS

FORMATS = (
    "safetensors",
    "float16",
    "bfloat16",
    "sharded",
    "ckpt",
    "bin",
    "old pt",
    "first_stage_model.",
    "module.",
)


def write(folder: Path, tensors: dict[str, np.ndarray], kind: str) -> None:
    folder.mkdir()
    match kind:
        case "safetensors" | "float16" | "bfloat16":
            save_file(tensors, folder / WEIGHTS)
        case "sharded":
            write_shards(folder, tensors)
        case "ckpt" | "bin" | "old pt":
            write_pickle(folder / f"model.{kind.split()[-1]}", tensors, kind)
        case prefix:
            others = {"model.diffusion_model.out.0.bias": np.zeros(3, np.float32)}
            named = {prefix + name: tensor for name, tensor in tensors.items()}
            save_file(named | (others if prefix != "module." else {}), folder / WEIGHTS)


def write_shards(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    names = list(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def write_pickle(path: Path, tensors: dict[str, np.ndarray], kind: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is an optional extra")
    state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    if kind == "ckpt":
        state = {"state_dict": state, "epoch": 3, "global_step": 200}
    torch.save(state, path, _use_new_zipfile_serialization=kind != "old pt")


def read(path: Path) -> dict[str, np.ndarray]:
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.fixture
def check_round_trip(make_tensors):
    """A function of a folder to write in, the tensors' shapes, the kind of file and a config."""
    return functools.partial(_check_round_trip, make_tensors)


def _check_round_trip(make_tensors, folder: Path, shapes: dict, kind: str, config=None) -> None:
    dtype = np.dtype({"float16": "float16", "bfloat16": ml_dtypes.bfloat16}.get(kind, "float32"))
    tensors = make_tensors(shapes, dtype)
    write(folder / "source", tensors, kind)
    if config is not None:
        (folder / "source/config.json").write_text(json.dumps(config))
    assert main(["convert", str(folder / "source"), str(folder / "ours")]) == 0
    assert main(["convert", str(folder / "ours"), str(folder / "back")]) == 0
    back = read(folder / "back" / WEIGHTS)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == dtype, name
        assert np.array_equal(back[name].view(np.uint8), tensor.view(np.uint8)), name
    if config is not None:
        written = json.loads((folder / "back/config.json").read_text())
        assert {key: written[key] for key in config} == config


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "layout",
    [
        "cvvae_v1",
        "cvvae_v1_full3d",
        "cvvae_sd3",
        "autoencoderkl_sd",
        "autoencoderkl_sd3",
        "autoencoderkl_temporal_svd",
        "disc3d",
        "disc3d_half3d",
    ],
)
def test_full_size(tmp_path, layouts, check_round_trip, layout, kind):
    config = layouts[layout]["config"] if not layout.startswith("disc") else None
    check_round_trip(tmp_path, layouts[layout]["tensors"], kind, config)
    shutil.rmtree(tmp_path)  # pytest would keep some hundred GB


@pytest.mark.parametrize("kind", FORMATS)
def test_small(tmp_path, tiny_layouts, check_round_trip, kind):
    layouts = {"cvvae_sd21_tiny", "disc3d_tiny"} if kind == "ckpt" else {"disc3d_tiny"}
    for name in layouts:
        (tmp_path / name).mkdir()
        check_round_trip(tmp_path / name, tiny_layouts[name]["tensors"], kind)


@pytest.mark.parametrize(
    "name", ["cvvae_sd21_tiny", "cvvae_sd3_tiny", "autoencoderkl_temporal_tiny", "lpips"]
)
def test_small_layouts(tmp_path, tiny_layouts, check_round_trip, name):
    check_round_trip(tmp_path, tiny_layouts[name]["tensors"], "safetensors")

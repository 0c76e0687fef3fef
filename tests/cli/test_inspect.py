"""`inspect`: which model a checkpoint holds, without its numbers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from cvvae_jax.checkpoint import save_model
from cvvae_jax.cli.main import main
from cvvae_jax.config import VideoVAEConfig
from cvvae_jax.models.image_vae import PRESETS
from cvvae_jax.models.video_vae import VideoVAE, function_preserving

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden"


def tensors(name: str, prefix: str = "") -> dict[str, np.ndarray]:
    shapes = json.loads((GOLDEN / f"{name}.json").read_text())["state_dict"]
    return {prefix + key: np.zeros(shape, np.float16) for key, shape in shapes.items()}


def lines(capsys) -> dict[str, str]:
    text = capsys.readouterr().out.splitlines()
    return dict(line.split(None, 1) for line in text if line.split()[1:])


def test_a_training_state_is_described_with_its_parts(tmp_path, capsys):
    save_file(
        {**tensors("cvvae_sd3_tiny"), **tensors("disc3d_tiny", "loss.discriminator.")},
        tmp_path / "x.safetensors",
    )
    assert main(["inspect", str(tmp_path / "x.safetensors")]) == 0
    found = lines(capsys)
    assert found["format"] == "safetensors, 1 file"
    assert found["source"] == str(tmp_path / "x.safetensors")
    assert found["license"] == "not stated"
    assert found["family"] == "CV-VAE SD3"
    assert found["assumed"] == "the encoder is causal, the decoder is not"
    assert found["stored"] == "as   float16 (180 tensors)"
    assert found["left"] == "alone  44 other tensors of the file"
    assert found["part"] == "discriminator (44 tensors): --prefix loss.discriminator."
    assert found["block_channels"] == "(32, 64, 128, 128)"
    assert "sha256" not in found
    arguments = ["--prefix", "loss.discriminator.", "--sha256", "--tensors"]
    assert main(["inspect", str(tmp_path / "x.safetensors"), *arguments]) == 0
    found = lines(capsys)
    assert found["family"] == "3-D discriminator"
    assert found["loss.discriminator.main.0.bias"] == "(32,) float16"
    assert len(found["sha256"]) == 64


@pytest.mark.parametrize("exportable", [True, False])
def test_a_model_of_ours_is_described(tmp_path, capsys, exportable):
    config = VideoVAEConfig(block_channels=(32, 32), blocks_per_level=1, temporal_strides=(2,))
    if not exportable:
        config = function_preserving(config, PRESETS["sd"])
    save_model(tmp_path / "x", VideoVAE(config, rngs=nnx.Rngs(0)))
    assert main(["inspect", str(tmp_path / "x"), "--tensors"]) == 0
    found = lines(capsys)
    assert found["family"] == ("CV-VAE SD2.1" if exportable else "none of the official ones")
    assert found["model"] == "VideoVAE"
    assert found["encoder/conv_in/bias"] == "(32,) float32"


def test_a_name_that_cannot_be_is_one_error(capsys):
    assert main(["inspect", "x" * 300]) == 2
    assert capsys.readouterr().err.count("error:") == 1


def test_what_is_no_model_is_one_error(tmp_path, capsys):
    (tmp_path / "x.safetensors").write_text("<html>")
    assert main(["inspect", str(tmp_path / "x.safetensors")]) == 2
    assert capsys.readouterr().err.count("error:") == 1


def test_a_named_config_is_read(tmp_path, capsys):
    save_file(tensors("autoencoderkl_sd_tiny"), tmp_path / "x.safetensors")
    (tmp_path / "other.json").write_text('{"scaling_factor": 0.5}')
    path, config = str(tmp_path / "x.safetensors"), str(tmp_path / "other.json")
    assert main(["inspect", path, "--config", config]) == 0
    assert lines(capsys)["scaling_factor"] == "0.5"


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "cvvae_jax", "inspect", *arguments]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, **options)


def test_damaged_weights_of_ours_are_one_line(tmp_path):
    """Orbax's threads print nothing beside it."""
    config = VideoVAEConfig(block_channels=(32, 32), blocks_per_level=1, temporal_strides=(2,))
    save_model(tmp_path / "x", VideoVAE(config, rngs=nnx.Rngs(0)))
    for file in (tmp_path / "x/weights").iterdir():
        if file.name == "_METADATA":
            file.write_text("{")
    done = run(str(tmp_path / "x"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    save_file(tensors("disc3d_tiny"), tmp_path / "x.safetensors")
    command = f"{sys.executable} -m cvvae_jax inspect {tmp_path}/x.safetensors --tensors | true"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_of_tensors_and_files_cannot_steer_a_terminal(tmp_path, capsys):
    name = "caf\udce9\x1b[2J\x07.safetensors"
    save_file({"encoder.\x1b[31m": np.zeros(1, np.float32)}, str(tmp_path / "x.safetensors"))
    (tmp_path / "x.safetensors").rename(tmp_path / name)
    assert main(["inspect", str(tmp_path / name)]) == 2
    said = capsys.readouterr()
    assert not set("\x1b\x07\udce9") & set(said.out + said.err)
    assert r"caf\udce9\x1b[2J\x07.safetensors" in said.err

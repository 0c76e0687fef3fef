"""`convert`: round trips are exact, and what was read and written is said."""

import json
import subprocess
import sys

import numpy as np
import pytest
from converting import assert_refused, assert_same, run, write
from safetensors import safe_open
from safetensors.numpy import load_file

import cvvae_jax
from cvvae_jax.convert.export import WEIGHTS


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_round_trip_is_exact(tmp_path, tensors, dtype):
    tensors = {name: t.astype(np.dtype(dtype)) for name, t in tensors.items()}
    write(tmp_path / "source", tensors)
    assert run(tmp_path / "source", tmp_path / "ours") == 0
    assert run(tmp_path / "ours", tmp_path / "back") == 0
    with safe_open(tmp_path / "back" / WEIGHTS, "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert_same({name: file.get_tensor(name) for name in file.keys()}, tensors)  # noqa: SIM118


def test_the_table_names_what_was_converted(tmp_path, source, capsys):
    assert run(source, tmp_path / "ours") == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    digest = subprocess.check_output(["sha256sum", source / WEIGHTS], text=True).split()[0]
    assert lines["family"] == "image VAE"
    assert lines["tensors"] == "180"
    assert lines["parameters"] == "1,250,759"
    assert lines["dtype"] == "float32, computed in float32"
    assert lines["sha256"] == digest
    assert digest in (tmp_path / "ours" / "README.md").read_text()


def test_the_card_passes_the_license_on(tmp_path, source):
    (tmp_path / "README.md").write_text("---\nlicense: openrail++\n---\n")
    assert run(source, tmp_path / "ours") == 0
    assert run(tmp_path / "ours", tmp_path / "back") == 0
    for folder in ("ours", "back"):
        card = (tmp_path / folder / "README.md").read_text()
        assert card.startswith("---\nlicense: openrail++\n")
        assert f'cvvae_jax.load("{folder}")' in card
        assert "AutoencoderKL.from_pretrained(" in card


def test_a_source_without_a_license_gets_none(tmp_path, source):
    assert run(source, tmp_path / "ours") == 0
    assert "license | not stated" in (tmp_path / "ours/README.md").read_text()


def test_types_change_only_on_demand(tmp_path, source, tensors):
    assert run(source, tmp_path / "half", "--to", "torch", "--dtype", "float16") == 0
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    assert_same(load_file(tmp_path / "half" / WEIGHTS), halves)


def test_our_weights_change_their_type_on_demand(tmp_path, source, tensors):
    assert run(source, tmp_path / "ours") == 0
    assert run(tmp_path / "ours", tmp_path / "half", "--dtype", "float16") == 0
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    assert_same(load_file(tmp_path / "half" / WEIGHTS), halves)


def test_options_reach_the_reader(tmp_path, tensors, capsys):
    """A prefix, a config.json of another name, and (refused here) raw weights."""
    named = {f"{part}.{name}": tensor for part in "ab" for name, tensor in tensors.items()}
    source = write(tmp_path / "source", named)
    (tmp_path / "other.json").write_text('{"scaling_factor": 0.5}')
    options = ["--prefix", "b.", "--config", tmp_path / "other.json"]
    assert_refused(capsys, tmp_path, source, tmp_path / "ours", says="several models")
    assert_refused(capsys, tmp_path, source, tmp_path / "ours", *options, "--raw", says="no run")
    assert run(source, tmp_path / "ours", *options) == 0
    assert cvvae_jax.load(tmp_path / "ours").config.scaling_factor == 0.5


def test_the_card_names_the_folder_that_was_found(tmp_path, tensors):
    (tmp_path / "pipeline").mkdir()
    write(tmp_path / "pipeline/vae", tensors)
    assert run(tmp_path / "pipeline", tmp_path / "ours") == 0
    assert "converted from | pipeline/vae (" in (tmp_path / "ours/README.md").read_text()


def test_verification_that_cannot_be_is_refused(tmp_path, source, capsys, monkeypatch):
    assert run(source, tmp_path / "ours") == 0
    arguments = [tmp_path / "ours", tmp_path / "again", "--to", "jax", "--verify"]
    assert_refused(capsys, tmp_path, *arguments, says="neither SRC nor DST is PyTorch's")
    monkeypatch.setitem(sys.modules, "torch", None)
    arguments = [source, tmp_path / "again", "--verify"]
    assert_refused(capsys, tmp_path, *arguments, says="--verify needs torch: pip install torch")


def test_an_export_keeps_the_settings(tmp_path, tensors):
    source = write(tmp_path / "source", tensors, scaling_factor=0.13025)
    assert run(source, tmp_path / "ours") == 0
    assert run(tmp_path / "ours", tmp_path / "back") == 0
    settings = json.loads((tmp_path / "back/config.json").read_text())
    assert settings["_class_name"] == "AutoencoderKL"
    assert settings["scaling_factor"] == 0.13025
    assert settings["block_out_channels"] == [32, 64, 64, 64]


def test_weights_that_a_type_cannot_hold_are_named(tmp_path, tensors, capsys):
    tensors["decoder.conv_in.bias"][3] = 1e6
    source = write(tmp_path / "source", tensors)
    assert run(source, tmp_path / "ours", "--dtype", "float16") == 0
    assert "decoder.conv_in.bias (Inf)" in capsys.readouterr().err
    config = cvvae_jax.load(tmp_path / "ours").config
    assert (config.param_dtype, config.dtype) == ("float16", "float32")


def test_weights_that_are_no_numbers_are_named_and_converted(tmp_path, tensors, capsys):
    tensors["decoder.conv_in.bias"][3] = np.nan
    tensors["decoder.conv_out.bias"][1] = np.inf
    source = write(tmp_path / "source", tensors)
    for target in ("ours", "back"):
        assert run(source, tmp_path / target) == 0
        warning = capsys.readouterr().err
        assert "warning" in warning and "(NaN)" in warning and "(Inf)" in warning
        source = tmp_path / target
    assert_same(load_file(tmp_path / "back" / WEIGHTS), tensors)

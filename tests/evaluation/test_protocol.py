"""Protocols: files that say what figures must have in common."""

import dataclasses
import re
from pathlib import Path

import pytest

from cvvae_jax.errors import UserError
from cvvae_jax.evaluation import protocol
from cvvae_jax.evaluation.protocol import Protocol, load_protocol
from cvvae_jax.resources import configs_folder

PROTOCOLS = configs_folder() / "protocols"


def load(folder: Path, text: str) -> Protocol:
    path = folder / "mine.toml"
    path.write_text(text)
    return load_protocol(str(path), folder=PROTOCOLS)[1]


@pytest.mark.parametrize(
    ("name", "frames", "stride", "fps", "size"),
    [
        ("cvvae-paper", 33, 3, None, 256),
        ("cvvae-paper-images", None, 1, None, 256),
        ("wfvae", 33, 1, None, 256),
        ("vidtok", 17, 1, 30.0, 256),
        ("full", None, 1, None, None),
        ("photos", None, 1, None, 128),
    ],
)
def test_published_protocols_are_there(name, frames, stride, fps, size):
    said, protocol = load_protocol(name, folder=PROTOCOLS)
    assert said == name and protocol.description
    assert (protocol.frames, protocol.stride) == (frames, stride)
    assert (protocol.fps, protocol.size) == (fps, size)


def test_a_file_is_a_protocol_and_what_it_leaves_out_has_a_default(tmp_path):
    found = load(tmp_path, 'frames = 5\nfps = 24\nmetrics = ["psnr", "time"]\ntile = 64\n')
    assert found == Protocol(frames=5, fps=24.0, metrics=("psnr", "time"), tile=64)


def test_hash_depends_on_every_field_but_the_description():
    before = Protocol()
    assert dataclasses.replace(before, description="x").hash == before.hash
    metrics = (*before.metrics[::-1], "psnr")
    assert dataclasses.replace(before, metrics=metrics).hash == before.hash
    changed = {
        "media": "image",
        "frames": 5,
        "stride": 2,
        "start": "middle",
        "size": 64,
        "crop": "none",
        "resize": "area",
        "latents": "sample",
        "seed": 1,
        "pixels": "float",
        "chunk_frames": 8,
        "tile": 64,
        "metrics": ("psnr",),
        "spectrum_window": 8,
        "flat_fields": False,
    }
    hashes = {dataclasses.replace(before, **{name: x}).hash for name, x in changed.items()}
    hashes |= {before.hash, dataclasses.replace(before, frames=5, fps=2.0).hash}
    assert len(hashes) == len(dataclasses.fields(Protocol))  # fps came with frames


def test_hash_depends_on_what_metrics_are_defined_as(monkeypatch):
    before = Protocol().hash
    monkeypatch.setattr(protocol, "DEFINITIONS", protocol.DEFINITIONS + 1)
    assert Protocol().hash != before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("framse = 3", "a protocol has no field framse; it has description, media, frames"),
        ('frames = "many"', "frames must be a whole number, not 'many'"),
        ("frames = true", "frames must be a whole number, not True"),
        ("frames = 0", "frames must be 1 or more"),
        ('resize = "magic"', "resize must be bicubic or bilinear or lanczos or area, not 'magic'"),
        ('metrics = ["psnr", "beauty"]', "metrics must be a list of psnr or ssim"),
        ("metrics = []", "metrics must name something"),
        ('tile = "big"', "tile must be a whole number or auto or whole, not 'big'"),
        ("fps = 30", "fps must be positive, and needs frames"),
        ("frames = 9\nfps = -1", "fps must be positive"),
        ("frames = 9\nfps = inf", "fps must be positive"),
        ("frames = 9\nfps = nan", "fps must be positive"),
        ('metrics = ["time", "compatibility"]', "compatibility is measured by metrics of frames"),
        ('media = "image"\nframes = 9', "images have one frame"),
        ("spectrum_window = 7", "spectrum_window must be even"),
        ("frames = ", "is no protocol that can be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, said):
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        load(tmp_path, text)
    assert "mine.toml" in str(raised.value)


def test_unknown_name_lists_those_there_are():
    with pytest.raises(UserError, match=r"no protocol papers; there are cvvae-paper, .*wfvae"):
        load_protocol("papers", folder=PROTOCOLS)

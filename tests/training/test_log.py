"""What is left to read of a stage, here and on Weights & Biases."""

import json
import math
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from cvvae_jax.errors import UserError
from cvvae_jax.training import log as log_module
from cvvae_jax.training.log import StageLog
from cvvae_jax.training.trackers import require_wandb

FRAMES = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3)


class FakeWandb(types.ModuleType):
    """The part of Weights & Biases that is used; keeps what it is given."""

    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("wandb")
        self.calls, self.logged, self.finished, self.starting_step = [], [], 0, 0

    def init(self, **kwargs):
        self.calls.append(kwargs)
        return types.SimpleNamespace(
            id=kwargs["id"] or "made-up",
            starting_step=self.starting_step,
            log=lambda values, step: self.logged.append((step, values)),
            finish=self._finish,
        )

    def _finish(self):
        self.finished += 1

    @staticmethod
    def Video(path, format):
        return Path(path), format


@pytest.fixture
def wandb(monkeypatch):
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def stage_log(folder, **kwargs) -> StageLog:
    return StageLog(folder, **{"title": "video VAE", "steps": 9, "start_step": 0} | kwargs)


def test_metrics_hold_no_number_that_json_lacks(tmp_path):
    log = stage_log(tmp_path)
    log.scalars(1, {"loss/total": math.nan, "norm/grad": math.inf, "psnr/recon": 20.5})
    log.close()
    line = (tmp_path / "metrics.jsonl").read_text()
    strict = json.loads(line, parse_constant=pytest.fail)
    assert strict == {"step": 1, "loss/total": None, "norm/grad": None, "psnr/recon": 20.5}


def board_values(folder: Path) -> list:
    """(step, name, value) of all events, the values of pictures as bytes."""
    found = []
    for file in sorted((folder / "tensorboard").iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16
            for value in event.summary.value:
                one = value.image.encoded_image_string or value.simple_value
                found.append((event.step, value.tag, one))
    return found


def test_tensorboard_has_what_is_finite(tmp_path):
    log = stage_log(tmp_path)
    log.scalars(1, {"a": 0.5, "b": math.nan})
    log.close()
    assert board_values(tmp_path) == [(1, "a", 0.5)]


def test_animation_is_a_file_and_in_tensorboard(tmp_path):
    log = stage_log(tmp_path)
    log.clip(12, "views", FRAMES)
    log.close()
    path = tmp_path / "samples" / "0000012.gif"
    assert Image.open(path).n_frames == 3
    assert board_values(tmp_path) == [(12, "views", path.read_bytes())]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (
            {"loss/total": 3.21, "loss/kl": 1.0, "psnr/recon": 20.0, "psnr/compat": 19.5},
            "loss 3.2, PSNR recon 20.00 dB, compat 19.50 dB, ",
        ),
        ({"loss/gan_d": 1.5, "loss/gan_penalty": 0.25}, "gan_d loss 1.500, gan_penalty loss 0.250"),
        ({"loss/total": math.nan, "guard/skipped": 1}, "loss nan, "),
        ({"loss/gan_d": 1.5, "loss/total": 3.0}, "loss 3.0, gan_d loss 1.500, "),
        (
            {"throughput/frames_per_second_per_device": 12.34},
            "2/9: 12.3 frames/s a device, ",
        ),
        ({}, "video VAE 2/9: "),
    ],
)
def test_progress_shows_whatever_is_there(tmp_path, capsys, metrics, said):
    log = stage_log(tmp_path)
    log.progress(2, metrics)
    log.close()
    printed = capsys.readouterr().out
    assert said in printed and printed.rstrip().endswith(" steps/s")


def test_metrics_and_animations_also_go_to_weights_and_biases(tmp_path, wandb):
    settings = {"workdir": str(tmp_path / "mine"), "seed": 0}
    folder = tmp_path / "mine"
    folder.mkdir()
    log = stage_log(folder, wandb="videos", settings=settings)
    log.scalars(1, {"loss/total": 2.0})
    log.clip(1, "views", FRAMES)
    log.close()
    (call,) = wandb.calls
    assert call["project"] == "videos" and call["config"] == settings
    assert call["group"] == "mine" and call["name"] == "mine: video VAE"
    video = {"views": (folder / "samples" / "0000001.gif", "gif")}
    assert wandb.logged == [(1, {"loss/total": 2.0}), (1, video)]
    assert wandb.finished == 1


def test_stage_goes_on_as_the_same_run(tmp_path, wandb):
    stage_log(tmp_path, wandb="videos").close()
    wandb.starting_step = 4  # 3 was there when the run was killed
    log = stage_log(tmp_path, wandb="videos", start_step=2)
    for step in (3, 4):
        log.scalars(step, {"a": 1.0})
        log.clip(step, "views", FRAMES)
    log.close()
    first, second = wandb.calls
    assert first["id"] is None
    assert second["id"] == "made-up" and second["resume"] == "allow"
    assert {step for step, _ in wandb.logged} == {4}


def test_nothing_goes_to_weights_and_biases_unasked(tmp_path, wandb):
    log = stage_log(tmp_path)
    log.scalars(1, {"a": 1.0})
    log.close()
    assert not wandb.calls and not (tmp_path / "wandb_id").exists()
    assert require_wandb(None) is None


def test_only_the_first_process_logs(tmp_path, wandb, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    log = stage_log(tmp_path, wandb="videos")
    log.scalars(1, {"a": 1.0})
    log.progress(1, {"a": 1.0})
    log.clip(1, "views", FRAMES)
    log.close()
    assert not wandb.calls and not list(tmp_path.iterdir())


def test_a_long_log_of_messages_is_put_aside(tmp_path, monkeypatch):
    for message in ("one", "two"):
        log_module.say(tmp_path, message)
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]
    monkeypatch.setattr(log_module, "LARGEST", (tmp_path / "log.txt").stat().st_size - 1)
    for message in ("three", "four"):
        log_module.say(tmp_path, message)
    ends = {path.name: path.read_text().split()[2::3] for path in tmp_path.iterdir()}
    assert ends == {"log.1.txt": ["one", "two"], "log.txt": ["three", "four"]}


@pytest.mark.parametrize("there", [None, types.ModuleType("wandb")], ids=["nothing", "folder"])
def test_missing_weights_and_biases_names_the_command(monkeypatch, there):
    monkeypatch.setitem(sys.modules, "wandb", there)
    with pytest.raises(UserError, match=r"--wandb videos needs .*: pip install wandb"):
        require_wandb("videos")


def test_refusal_of_weights_and_biases_is_told(tmp_path, wandb, monkeypatch):
    def refuse(**_):
        raise wandb.Error("api_key not configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match="does not accept the run: api_key not configured"):
        stage_log(tmp_path, wandb="videos")

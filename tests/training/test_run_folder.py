"""Run folders: a refused start changes nothing in one, a second run stays out, and damaged files of
it are said and worked around."""

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from many_processes import ROOT, environment, write_recipe
from tiny_training import logged_lines, short_run

from cvvae_jax.config import Bucket, DataConfig, TrainConfig
from cvvae_jax.data.sources import open_source
from cvvae_jax.errors import UserError
from cvvae_jax.resumable.files import write_whole
from cvvae_jax.training import loop, run_folder
from cvvae_jax.training.log import StageLog
from cvvae_jax.training.run_folder import earlier_sides
from cvvae_jax.video_io.images import write_image

HOLD = """
import sys, time
from cvvae_jax.resumable.lock import locked
with locked(sys.argv[1], "busy"):
    print("in", flush=True)
    time.sleep(600)
"""


def content(folder: Path) -> dict[str, str]:
    """Every file of a folder, by its hash."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextlib.contextmanager
def held(file: Path) -> Iterator[subprocess.Popen]:
    """A lock, by another process."""
    command = [sys.executable, "-c", HOLD, str(file)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(devices=1))
    try:
        assert holder.stdout.readline() == b"in\n"
        yield holder
    finally:
        holder.kill()
        holder.wait()


def longer(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=12))


def test_second_run_in_a_folder_is_refused_and_changes_nothing_until_the_first_has_died(
    trifling_run,
):
    loop.train(trifling_run)
    folder = Path(trifling_run.workdir)
    with held(folder / "lock") as holder:
        before = content(folder)
        with pytest.raises(UserError) as refused:
            loop.train(longer(trifling_run))
        assert content(folder) == before
        holder.kill()
        holder.wait()
        assert f"another run is at work in {folder}" in str(refused.value)
        who = f"(process {holder.pid} on {socket.gethostname()}, since {time.strftime('%Y-')}"
        assert who in str(refused.value)
        loop.train(longer(trifling_run))
    assert logged_lines(trifling_run)[-1]["step"] == 12


def test_run_of_another_architecture_is_refused_and_nothing_is_changed(trifling_run):
    loop.train(trifling_run)
    folder = Path(trifling_run.workdir)
    (folder / "checkpoints/12.partial").mkdir()
    before = content(folder)
    model = dataclasses.replace(trifling_run.model, blocks_per_level=2)
    with pytest.raises(UserError, match="9 doesn't fit this run: it is of other networks"):
        loop.train(dataclasses.replace(trifling_run, model=model, init="random"))
    stage = dataclasses.replace(trifling_run.train, steps=6)
    with pytest.raises(UserError, match="has done 9 steps, more than the 6 asked for"):
        loop.train(dataclasses.replace(trifling_run, train=stage, seed=5))
    for step in (3, 6, 9):
        (folder / f"checkpoints/{step}/manifest.json").rename(folder / f"{step}")
    with pytest.raises(UserError, match="no checkpoint is intact"):
        loop.train(dataclasses.replace(trifling_run, seed=5))
    for step in (3, 6, 9):
        (folder / f"{step}").rename(folder / f"checkpoints/{step}/manifest.json")
    assert content(folder) == before
    assert (folder / "checkpoints/12.partial").exists()


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[: len(text) // 2], lambda text: b"\xff" + text, lambda text: b"[1]"],
    ids=["cut", "byte", "list"],
)
def test_damaged_config_is_said_and_compared_with_the_newest_checkpoints(
    trifling_run, damage, capsys
):
    loop.train(trifling_run)
    path = Path(trifling_run.workdir) / "config.json"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    loop.train(longer(trifling_run))
    said = capsys.readouterr().out
    assert f"warning: {path} was damaged and is written anew" in said
    assert "changed since the last start: train.steps 9 -> 12" in said
    assert json.loads(path.read_bytes())["train"]["steps"] == 12


def test_damaged_lines_of_the_log_are_said_and_left_out(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\xffep": 2}\n{"a": 3}\n[4]\n\n{"step": 2}\n{"step": 3}')
    StageLog(tmp_path, title="x", steps=4, start_step=3).close()
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    assert f"warning: 4 damaged lines of {path} are left out" in capsys.readouterr().out


def test_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    write_whole(tmp_path / "a", "before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "a", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"


def with_files(config: TrainConfig, folder: Path, names: list[str]) -> TrainConfig:
    """Trained on pictures of these names, in a folder."""
    for name in names:
        write_image(folder / name, np.zeros((16, 16, 3), np.uint8))
    stage = dataclasses.replace(config.train, buckets=(Bucket(1, 8, 8),))
    data = DataConfig(images=str(folder), eval_clips=1)
    return dataclasses.replace(config, train=stage, data=data)


def sides_of(config: TrainConfig) -> tuple[set[str], set[str]]:
    record = json.loads((Path(config.workdir) / "data.json").read_text())["image"]
    return set(record["held_out"]), set(record["trained_on"])


def test_held_out_files_of_a_run_stay_what_they_were_and_changes_are_said(
    trifling_run, tmp_path, capsys
):
    """Three files, of which the hash holds out none; of those that come later it holds out some."""
    media = tmp_path / "media"
    media.mkdir()
    config = with_files(trifling_run, media, ["a.png", "b.png", "c.png"])
    loop.train(config)
    held, trained = sides_of(config)
    assert len(held) == 1 and held | trained == {"a.png", "b.png", "c.png"}
    more = [f"{i:03}.png" for i in range(30)]
    with_files(trifling_run, media, more)
    gone = min(trained)
    (media / gone).unlink()
    write_image(media / max(trained), np.zeros((8, 24, 3), np.uint8))
    capsys.readouterr()
    loop.train(longer(config))
    said = capsys.readouterr().out
    assert "last start: 30 image files are new (000.png, 001.png, 002.png, ..); none" in said
    assert f"1 image files are gone ({gone}); none that was trained on is measured on" in said
    assert f"1 image files are of another size ({max(trained)});" in said
    now_held, now_trained = sides_of(config)
    assert now_held & {"a.png", "b.png", "c.png"} == held
    assert trained <= now_trained and now_held | now_trained == held | trained | set(more)
    known = earlier_sides(tmp_path / "run")["image"]
    source = open_source(str(media), "image", split="eval", known=known)
    assert {Path(source.name(i)).name for i in range(len(source))} == now_held


def test_data_whose_held_out_files_are_gone_or_unknown_are_refused(trifling_run, tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    config = with_files(trifling_run, media, ["a.png", "b.png", "c.png"])
    loop.train(config)
    [held], _ = sides_of(config)
    (media / held).rename(tmp_path / held)
    with pytest.raises(UserError, match="this run was trained on all image files that are there"):
        loop.train(longer(config))
    (tmp_path / held).rename(media / held)
    (tmp_path / "run/data.json").write_text('{"image": {"held')
    with pytest.raises(
        UserError, match=r"data\.json, the list of the files .* is damaged; restore"
    ):
        loop.train(longer(config))


def test_processes_that_see_different_files_are_told(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    gather, other = run_folder.multihost_utils, np.zeros(32, np.uint8)
    monkeypatch.setattr(gather, "process_allgather", lambda own: np.stack([own, own]))
    run_folder.check_same_files({"video": {"a.mp4": 1}})
    monkeypatch.setattr(gather, "process_allgather", lambda own: np.stack([own, other]))
    with pytest.raises(UserError, match="process 1 doesn't see the files, or their sizes"):
        run_folder.check_same_files({"video": {"a.mp4": 1}})


@pytest.mark.slow
def test_second_train_command_ends_with_2_and_the_first_goes_on(image_vae, tmp_path):
    config = short_run(tmp_path / "run", image_vae, gan="none")
    recipe = str(write_recipe(tmp_path, config))
    command = [sys.executable, str(ROOT / "tests/worker_process.py"), recipe]
    variables = environment(devices=1)
    first = subprocess.Popen(command, env=variables | {"FAULT": "pause 5"})
    try:
        while not (tmp_path / "run/checkpoints/3").exists():
            assert first.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        before = content(tmp_path / "run")
        second = subprocess.run(command, env=variables, capture_output=True, text=True)
        assert content(tmp_path / "run") == before
        first.send_signal(signal.SIGUSR1)
        assert first.wait(timeout=300) == 0
    finally:
        first.kill()
    assert second.returncode == 2
    assert second.stderr.startswith("error: another run is at work in ")
    assert f"(process {first.pid} on " in second.stderr
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {"3", "6", "9"}

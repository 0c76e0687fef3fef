"""A run on a folder of everything: a hundred steps on what is good, and a word on what is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import odd_media
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_run_trains_a_hundred_steps_and_names_every_bad_file(tmp_path):
    av.logging.set_level(av.logging.PANIC)
    odd_media.make(tmp_path / "media")
    settings = {
        "workdir": tmp_path / "run",
        "image-train.steps": 1,
        "train.steps": 100,
        "train.log-every": 10,
        "train.eval-every": 100,
        "data.eval-clips": 2,
        **dict.fromkeys(("data.videos", "data.images", "data.eval-videos"), tmp_path / "media"),
        "data.max-bad": 1,
        "data.workers": 1,
    }
    arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "train.py", "configs/quickstart.py", *arguments]
    env = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    last = [line for line in lines if "data/bad_files" in line][-1]
    assert last["step"] == 100
    log = (tmp_path / "run/log.txt").read_text()
    bad = [name for name in odd_media.bad_files() if f"{name} " in log]
    assert last["data/bad_files"] == len(bad) >= len(odd_media.bad_files()) - 2
    assert last["data/replaced_records"] > len(bad)

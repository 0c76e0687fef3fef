"""The stream's contract: all records of an epoch once, in batches that depend on the step."""

import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cvvae_jax.config import Bucket, DataConfig, StageConfig
from cvvae_jax.data.pipeline import batches
from cvvae_jax.video_io.images import write_image
from cvvae_jax.video_io.video_writer import VideoWriter

IMAGES, VIDEOS, BAD = 23, 9, 5
BUCKETS = (
    Bucket(frames=1, size=8, batch=4, weight=0.6),
    Bucket(frames=3, size=(8, 16), batch=8, weight=0.3),
    Bucket(frames=2, size=8, batch=4, weight=0.1),
)
STAGE = StageConfig(steps=1, buckets=BUCKETS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images and videos of one gray level each, 10 (i + 1); image BAD is none."""
    root = tmp_path_factory.mktemp("media")
    for kind, count in (("images", IMAGES), ("videos", VIDEOS)):
        (root / kind).mkdir()
        for i in range(count):
            frame = np.full((8, 16, 3), 10 * (i + 1), np.uint8)
            if kind == "images":
                write_image(root / kind / f"{i:02}.png", frame)
            else:
                path = root / kind / f"{i:02}.mp4"
                with VideoWriter(path, fps=25, height=8, width=16) as writer:
                    for _ in range(6):
                        writer.write(frame)
    (root / "images" / f"{BAD:02}.png").write_bytes(b"no image")
    return DataConfig(
        videos=str(root / "videos"),
        images=str(root / "images"),
        eval_videos=str(root / "videos"),
        max_bad=1.0,
        flip=True,
    )


def take(count, data, *, start=0, stage=STAGE, **kwargs):
    stream = batches(stage, data, seed=3, start_step=start, **kwargs)
    found = list(itertools.islice(stream, count))
    stream.close()
    return found


def shown(clips):
    """Numbers of the files that clips (n, t, h, w, 3) show."""
    return np.round(clips.mean(axis=(1, 2, 3, 4)) / 10).astype(int) - 1


def digest(batch):
    return hashlib.sha256(batch["video"].tobytes() + batch["seed"].tobytes()).hexdigest()


@pytest.mark.parametrize("process_count", [1, 2, 4])
@pytest.mark.parametrize("pairs", [False, True])
def test_every_global_batch_has_the_same_records_for_any_number_of_processes(
    data, process_count, pairs
):
    alone = take(30, data, pairs=pairs)
    parts = [
        take(30, data, pairs=pairs, process_index=p, process_count=process_count)
        for p in range(process_count)
    ]
    for whole, *shares in zip(alone, *parts, strict=True):
        assert len({share["video"].shape for share in shares}) == 1
        for name, value in whole.items():
            joined = np.stack([share[name] for share in shares], axis=1).reshape(value.shape)
            np.testing.assert_array_equal(joined, value)


@pytest.mark.parametrize(("workers", "start"), [(0, 13), (1, 0), (2, 7), (3, 41)])
def test_the_stream_is_the_same_for_any_number_of_workers_and_any_start(data, workers, start):
    """Across epochs: 60 steps are six of the images."""
    whole = take(60, data)
    found = take(60 - start, DataConfig(**{**vars(data), "workers": workers}), start=start)
    assert [digest(batch) for batch in found] == [digest(batch) for batch in whole[start:]]


def test_every_good_file_is_shown_once_an_epoch_and_the_bad_one_replaced_by_the_same(data):
    stage = StageConfig(steps=1, buckets=BUCKETS[:1])
    stream = batches(stage, data, seed=3, start_step=0)
    # Lowest common multiple: 4 epochs of 23 are 23 batches of 4.
    epochs = shown(np.concatenate([next(stream)["video"] for _ in range(23)])).reshape(4, 23)
    good = set(range(IMAGES)) - {BAD}
    stand_ins = set()
    for epoch in epochs:
        numbers, counts = np.unique(epoch, return_counts=True)
        assert set(numbers) == good
        stand_ins |= set(numbers[counts == 2])
        assert counts.sum() == 23 and counts.max() == 2
    assert len(stand_ins) == 1
    assert len({tuple(epoch) for epoch in epochs}) == 4  # shuffled anew
    assert stream.metrics() == {"data/replaced_records": 4.0, "data/bad_files": 1.0}


def test_records_of_one_file_differ_between_epochs(data):
    stage = StageConfig(steps=1, buckets=(Bucket(frames=1, size=8, batch=1),))
    seeds = np.concatenate([batch["seed"] for batch in take(46, data, stage=stage)])
    assert len(np.unique(seeds)) == 46


TRAINER = """
import hashlib, os, sys
from cvvae_jax.config import DataConfig
from cvvae_jax.data.pipeline import batches
from cvvae_jax.recipe import from_json
sys.path.insert(0, {tests!r})
from test_batches import STAGE, digest

if __name__ == "__main__":
    log, index, data = sys.argv[1], int(sys.argv[2]), from_json(DataConfig, sys.argv[3])
    done = len(open(log).readlines()) if os.path.exists(log) else 0
    stream = batches(STAGE, data, seed=3, start_step=done, process_index=index, process_count=2)
    with open(log, "a") as file:
        for _ in range(done, {steps}):
            file.write(digest(next(stream)) + "\\n")
            file.flush()
    stream.close()
"""


def test_two_killed_processes_go_on_with_the_same_stream(data, tmp_path):
    """SIGKILL at random moments, of workers too; the log's length is the step to resume at."""
    from cvvae_jax.recipe import to_json

    steps, folder = 200, Path(__file__).parent
    (tmp_path / "main.py").write_text(TRAINER.format(tests=str(folder), steps=steps))
    settings = to_json(DataConfig(**{**vars(data), "workers": 1}))
    env = os.environ | {"PYTHONPATH": str(folder.parents[1])}

    def start(index):
        log = str(tmp_path / str(index))
        command = [sys.executable, str(tmp_path / "main.py"), log, str(index), settings]
        return subprocess.Popen(command, env=env, start_new_session=True)

    rng, kills = random.Random(0), 0
    for index in range(2):
        log = tmp_path / str(index)
        for _ in range(1 + index):
            process, before = start(index), len(log.read_text().splitlines()) if log.exists() else 0
            goal = before + rng.randrange(5, 80)
            while process.poll() is None:
                if log.exists() and len(log.read_text().splitlines()) >= goal:
                    os.killpg(process.pid, signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.002)
            process.wait()
        assert start(index).wait() == 0
    assert kills == 3
    for index in range(2):
        undisturbed = take(steps, data, process_index=index, process_count=2)
        logged = (tmp_path / str(index)).read_text().split()
        assert logged == [digest(batch) for batch in undisturbed]

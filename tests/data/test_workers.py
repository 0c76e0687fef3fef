"""Worker processes outlive signals to the whole run, but not the run; their deaths end it."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cvvae_jax.config import Bucket, DataConfig, StageConfig
from cvvae_jax.data.pipeline import batches

SCRIPT = """
import itertools, os, signal, threading
from cvvae_jax.config import Bucket, DataConfig, StageConfig
from cvvae_jax.data.pipeline import batches

if __name__ == "__main__":
    seen, started = set(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: seen.add(number))

    def signal_all():
        for number in itertools.cycle((signal.SIGINT, signal.SIGTERM)):
            os.killpg(0, number)
            if started.wait(0.02):
                break

    thread = threading.Thread(target=signal_all)
    thread.start()
    stage = StageConfig(steps=1, buckets=(Bucket(3, 16, 4),))
    stream = batches(stage, DataConfig(workers=2), seed=0, start_step=0)
    for _ in range(20):  # more than the workers make in advance
        next(stream)
    started.set()
    thread.join()
    for _ in range(20):
        next(stream)
    print(len(seen), "signals", flush=True)
    os._exit(0)  # like a kill: nothing is cleaned up
"""


def test_workers_live_as_long_as_the_main_process(tmp_path):
    (tmp_path / "main.py").write_text(SCRIPT)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(tmp_path / "main.py")]
    # The pipes of the output end with the last process that holds them.
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, start_new_session=True, env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 signals\n"


def test_death_of_a_worker_is_said_in_a_sentence():
    stage = StageConfig(steps=1, buckets=(Bucket(3, 16, 4),))
    stream = batches(stage, DataConfig(workers=2), seed=0, start_step=0)
    try:
        next(stream)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        said = r"^a worker process .* was ended by SIGKILL\. .* lower data\.workers"
        with pytest.raises(ChildProcessError, match=said):
            for _ in range(100):  # more than the workers have made in advance
                next(stream)
    finally:
        stream.close()

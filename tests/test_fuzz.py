"""Damaged and hostile files of every kind: a sentence, within seconds and little memory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_kinds import KINDS

HERE = Path(__file__).parent


def fuzz(kind: str, count: int, folder: Path) -> None:
    if kind.startswith("pickle"):
        pytest.importorskip("torch")
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, HERE / "fuzz_process.py", kind, str(count), folder]
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True)
    last = (done.stdout.splitlines() or ["nothing"])[-1]
    assert done.returncode != -signal.SIGPROF, f"{last}: more than 5 seconds"
    assert done.returncode == 0, f"{last}: {done.stderr[-3000:]}"


@pytest.mark.parametrize("kind", KINDS)
def test_mutations_are_refused_or_change_nothing(tmp_path, kind):
    fuzz(kind, 20, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutations_are_refused_or_change_nothing(tmp_path, kind):
    fuzz(kind, 200, tmp_path)

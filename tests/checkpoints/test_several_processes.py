"""Two processes with a disk in common."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from cvvae_jax.checkpoint import Checkpoints, runs
from cvvae_jax.errors import UserError
from cvvae_jax.processes import broadcast

SCRIPT = """
import errno, json, os, pathlib, resource, sys, time
import jax
index, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
import numpy as np
from tiny_checkpoints import tiny_state
from cvvae_jax import sharding
from cvvae_jax.checkpoint import Checkpoints
from cvvae_jax.config import MeshConfig

host = jax.tree.map(np.asarray, tiny_state(1, size=256))
layout = sharding.shardings(host, sharding.make_mesh(MeshConfig(fsdp=4), batches=(8,)))
place = lambda x, s: jax.make_array_from_callback(x.shape, s, lambda part: x[part])
state = jax.tree.map(place, host, layout)
checkpoints, seen = Checkpoints(folder, keep=2), {}

def save(step):
    checkpoints.save(step, state=state, weights=state["model"], config={})
    try:
        checkpoints.finish()
    except OSError as error:
        seen[f"error {step}"] = str(error)

def restore():
    step = checkpoints.latest_intact_step()
    restored = checkpoints.restore(step, host, layout)
    for ours, theirs in zip(*map(jax.tree.leaves, (restored, state))):
        for one, other in zip(ours.addressable_shards, theirs.addressable_shards):
            np.testing.assert_array_equal(one.data, other.data)
    return step

save(1)
before = resource.getrlimit(resource.RLIMIT_FSIZE)
if index == 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
save(2)
resource.setrlimit(resource.RLIMIT_FSIZE, before)
seen["after the failure"] = restore()
save(3)
if index == 0:
    (checkpoints._folder / "3/config/metadata").write_text("{ }")
seen["after the damage"] = restore()

def refused(wanted, call):
    def refusing(path, *args, **options):
        if wanted(str(path)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return call(path, *args, **options)
    return refusing

for step, ending in enumerate(("run", ".orbax-checkpoint-tmp", "weights"), 4):
    mkdirs = os.mkdir, pathlib.Path.mkdir
    if index == 0:
        wanted = lambda path: path.endswith(ending) or f"/{ending}.orbax" in path
        os.mkdir, pathlib.Path.mkdir = (refused(wanted, call) for call in mkdirs)
    started = time.monotonic()
    save(step)
    assert time.monotonic() - started < 30
    os.mkdir, pathlib.Path.mkdir = mkdirs
with open(f"{folder}-{index}.json", "w") as file:
    json.dump(seen, file)
"""


@pytest.mark.slow
def test_a_failure_of_one_process_is_one_of_all_at_once_and_all_use_the_same_step(tmp_path):
    """The second one can't write its part of step 2. Orbax alone would wait twenty minutes.
    In the end the first one can't make a folder: the run's, the checkpoint's, an item's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
    devices = "--xla_force_host_platform_device_count=2"
    environment = {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": devices}
    command = [sys.executable, "-c", SCRIPT]
    processes = [
        subprocess.Popen([*command, str(index), port, str(tmp_path / "run")], env=environment)
        for index in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    first, second = (json.loads((tmp_path / f"run-{index}.json").read_text()) for index in range(2))
    assert "process 1 could not write its part" in first.pop("error 2")
    assert "File too large" in second.pop("error 2")
    for step in (4, 5, 6):
        assert "No space left on device" in first.pop(f"error {step}")
        assert second.pop(f"error {step}")
    assert first == second == {"after the failure": 1, "after the damage": 1}
    assert {entry.name for entry in (tmp_path / "run").iterdir()} == {"1", "3.damaged"}


@pytest.fixture
def first_of_two(monkeypatch):
    """What process 0 of two does, which hears its own words."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(runs.multihost_utils, "broadcast_one_to_all", lambda array: array)


@pytest.mark.parametrize("found", [None, 3, [7, 20.5], {"error": "none is whole: Zürich"}])
@pytest.mark.usefixtures("first_of_two")
def test_what_the_first_process_finds_comes_back_as_it_was(found):
    assert broadcast.broadcast_from_first(lambda: found) == found


@pytest.mark.parametrize("name", [None, "a/b"])
@pytest.mark.usefixtures("first_of_two")
def test_what_the_system_refuses_the_first_process_is_raised_by_all(name):
    def refused():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    with pytest.raises(OSError, match="No space left on device") as error:
        broadcast.broadcast_from_first(refused)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, name)


@pytest.mark.usefixtures("first_of_two")
def test_what_the_first_process_refuses_is_refused_by_all():
    def refused():
        raise UserError("no good: Zürich.")

    with pytest.raises(UserError, match="no good: Zürich"):
        broadcast.broadcast_from_first(refused)


@pytest.mark.parametrize("failed", [[False, False], [False, True]])
def test_a_failure_of_another_process_is_one_of_this_one(tmp_path, monkeypatch, request, failed):
    checkpoints = Checkpoints(tmp_path, keep=1)
    request.getfixturevalue("first_of_two")
    monkeypatch.setattr(
        runs.multihost_utils, "process_allgather", lambda own: np.asarray(failed)[:, None]
    )
    if any(failed):
        with pytest.raises(OSError, match=r"process 1 could not write a checkpoint\. .* anew\."):
            checkpoints.finish()
    else:
        checkpoints.finish()

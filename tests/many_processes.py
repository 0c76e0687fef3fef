"""Runs of several processes on one machine, each with virtual CPU devices of its own."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cvvae_jax.config import TrainConfig
from cvvae_jax.recipe import to_json

ROOT = Path(__file__).parents[1]
_RECIPE = """
from pathlib import Path
from cvvae_jax.config import TrainConfig
from cvvae_jax.recipe import from_json

def get_config():
    return from_json(TrainConfig, Path(__file__).with_suffix(".json").read_text())
"""


def write_recipe(folder: Path, config: TrainConfig) -> Path:
    """A recipe file that makes this configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.py").write_text(_RECIPE)
    (folder / "recipe.json").write_text(to_json(config))
    return folder / "recipe.py"


def environment(*, devices: int) -> dict[str, str]:
    """For a process of so many devices, which compiles as the tests do."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"]),
        "PYTHONPATH": str(ROOT),
    }


def free_port() -> int:
    """One below those that the system gives to connections, of other tests' too, meanwhile."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Workers:
    """Processes that run `train.py --distributed`; what they print goes to files."""

    def __init__(
        self,
        folder: Path,
        arguments: list[list[str]],
        *,
        fault: str | None,
        devices: int,
        script: Path,
    ):
        """Starts one process for every list of arguments; the last one has the fault."""
        folder.mkdir(parents=True, exist_ok=True)
        port, count = free_port(), len(arguments)
        self._said = [folder / f"said_{i}.txt" for i in range(count)]
        self.started = time.monotonic()
        self.processes = []
        for i, (said, own) in enumerate(zip(self._said, arguments, strict=True)):
            last = i == count - 1
            names = {
                **({"FAULT": fault} if fault and last else {}),
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(i),
            }
            command = [sys.executable, str(script), *own, "--distributed"]
            with said.open("w") as file:
                process = subprocess.Popen(
                    command,
                    env=environment(devices=devices) | names,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            self.processes.append(process)

    def wait(self, timeout: float = 600) -> list[int]:
        """The exit codes."""
        end = time.monotonic() + timeout
        return [p.wait(timeout=max(0.1, end - time.monotonic())) for p in self.processes]

    def said(self, index: int) -> str:
        """What a process has printed."""
        return self._said[index].read_text(errors="replace")

    def wait_for(self, index: int, text: str, *, seconds: float = 600) -> None:
        """Until a process has printed something."""
        end = time.monotonic() + seconds
        while text not in self.said(index):
            assert time.monotonic() < end, self.said(index)
            assert self.processes[index].poll() is None, self.said(index)
            time.sleep(0.02)

    def kill(self, index: int, number: int = signal.SIGKILL) -> None:
        """Sends a signal to one of them, if it still runs."""
        self.processes[index].send_signal(number)


@contextlib.contextmanager
def workers(
    folder: Path,
    *arguments: list[str],
    fault: str | None = None,
    devices: int = 4,
    script: Path = ROOT / "tests" / "worker_process.py",
) -> Iterator[Workers]:
    """`Workers`, none of which outlive the block."""
    started = Workers(folder, list(arguments), fault=fault, devices=devices, script=script)
    try:
        yield started
    finally:
        for process in started.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

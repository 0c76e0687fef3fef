"""Memory over time while `reconstruct` streams a short and a long file through a tiny model.

    python -m benchmarks.streaming --seconds 60 600

Memory that a program holds is what the operating system says it has in RAM (Linux only).
"""

import dataclasses
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import tyro
from flax import nnx

from cvvae_jax.checkpoint import save_model
from cvvae_jax.config import VideoVAEConfig
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.video_io.video_writer import VideoWriter

RATE = 25


@dataclasses.dataclass(frozen=True)
class Streaming:
    """Memory over time while `reconstruct` streams files of several lengths."""

    seconds: tuple[int, ...] = (60, 600)
    """Lengths of the files, at 25 frames per second."""
    height: int = 64
    """In pixels."""
    width: int = 96
    """In pixels."""
    lines: int = 12
    """Points in time to print for each file."""


def main() -> None:
    """Print a table a file, and how the peaks compare."""
    options = tyro.cli(Streaming, prog="python -m benchmarks.streaming")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {options}")
    with tempfile.TemporaryDirectory() as folder:
        save_weights(Path(folder, "weights"))
        runs = [_run(Path(folder), seconds, options) for seconds in options.seconds]
    first = max(runs[0])
    for seconds, memory in zip(options.seconds, runs, strict=True):
        print(f"{seconds} s of video: peak {max(memory):.1f} MiB, {max(memory) / first:.3f}")


def _run(folder: Path, seconds: int, options: Streaming) -> list[float]:
    source = folder / "in.mp4"
    write_video(source, frames=seconds * RATE, height=options.height, width=options.width)
    start = time.monotonic()
    times, memory = [], []
    for used in memory_while_running(folder, source):
        times.append(time.monotonic() - start)
        memory.append(used)
    print(f"{seconds * RATE} frames of {options.width}x{options.height}, {times[-1]:.0f} s:")
    for i in np.linspace(0, len(times) - 1, options.lines).round().astype(int):
        print(f"  after {times[i]:6.1f} s {memory[i]:8.1f} MiB")
    return memory


def save_weights(path: Path) -> None:
    """A random model of the smallest width."""
    config = VideoVAEConfig(block_channels=(8, 8, 8, 8), blocks_per_level=1, norm_groups=4)
    save_model(path, VideoVAE(config, rngs=nnx.Rngs(0)))


def write_video(path: Path, *, frames: int, height: int, width: int) -> None:
    """Something that moves."""
    across, down = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    with VideoWriter(path, fps=RATE, height=height, width=width) as writer:
        for i in range(frames):
            frame = 128 + 100 * np.sin((across + i) / 9 + np.arange(3)) * np.cos(down / 7)
            writer.write(frame.astype(np.uint8))


def memory_while_running(folder: Path, source: Path) -> list[float]:
    """MiB that `reconstruct` has in RAM, four times a second, from its start to its end."""
    command = ["reconstruct", str(source), str(folder / "out.mp4")]
    process = subprocess.Popen(
        [sys.executable, "-m", "cvvae_jax", *command, "--weights", str(folder / "weights")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        pages = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
        if pages:
            yield int(pages[0]) / 1024
        time.sleep(0.25)
    if process.returncode:
        raise RuntimeError(f"reconstruct ended with {process.returncode}")


if __name__ == "__main__":
    main()

"""How fast a full-width video VAE encodes and decodes, and in how much memory, beside PyTorch.

    python -m benchmarks.codec                                          # the whole table
    python -m benchmarks.codec --sizes 17x256x256 --dtypes float32      # enough for a CPU
    python -m benchmarks.codec --quick                                  # small widths, in seconds
    python -m benchmarks.codec --profile 3                              # and a trace of 3 runs
    python -m benchmarks.codec --convolutions                           # and compiled convolutions
    python -m benchmarks.codec --quality runs/quickstart --clips DIR    # what bfloat16 costs

Random weights of the official shapes, the same on both sides. Videos go through in chunks of 17
frames, one after the other; a round runs every side once, so that whatever else the machine does
slows all of them. Utilization is of the fastest product of matrices in the same type, by either
side, measured just before: on the official operations, and on those that our forms of convolution
execute. Memory is, on CPUs, what a run added to the process; on GPUs the compiler's plan of ours,
and what PyTorch's tensors took at most.
"""

import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from benchmarks.codec import memory, ours, quality
from benchmarks.codec.setting import (
    Part,
    Size,
    Variant,
    configuration,
    operations,
    random_input,
    random_model,
)
from cvvae_jax.config import DType
from cvvae_jax.models.video_vae import PresetName, VideoVAE

try:
    from benchmarks.codec import theirs
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    theirs = None

HEADER = (
    f"{'':34}{'compile s':>10}{'min s':>9}{'median s':>10}{'frames/s':>10}{'GiB':>7}"
    f"{'official %':>12}{'executed %':>12}{'difference':>12}"
)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Rows are all combinations of sizes, types, parts and sides."""

    preset: PresetName = "sd21"
    """Official architecture."""
    sizes: tuple[str, ...] = ("17x256x256", "33x512x512", "81x576x1024")
    """Frames (1 + 16k, or fewer than 17: 1 + 4k), height and width (multiples of 8)."""
    dtypes: tuple[DType, ...] = ("bfloat16", "float32")
    """Of computation and parameters."""
    torch: tuple[Variant, ...] = ("eager", "channels_last", "compiled")
    """Ways to run PyTorch's side, where it is installed."""
    warm_up: int = 1
    """Rounds before any is timed."""
    repeats: int = 3
    """Timed rounds."""
    quick: bool = False
    """Small widths, one small size, PyTorch eagerly."""
    convolutions: bool = False
    """Also print what the compiler made of our convolutions: targets and layouts."""
    profile: int = 0
    """Runs of each part that jax.profiler traces, after the timed ones, for XProf or TensorBoard;
    ours alone."""
    profile_folder: Path = Path("profile")
    """Where traces are written: a folder for each type, part and size."""
    quality: Path | None = None
    """A trained model: measures what encoder and decoder lose in bfloat16, and nothing else."""
    clips: Path | None = None
    """Videos for `quality`, of 17 frames and 128 x 128 pixels at least."""


def main(options: Benchmark) -> None:
    """Prints lines about the machine, then the table, as it is measured."""
    if options.quick:
        options = dataclasses.replace(options, sizes=("5x32x32",), torch=("eager",), repeats=2)
    device = jax.devices()[0]
    print(
        f"{device.device_kind} ({device.platform}), {os.cpu_count()} cores, jax {jax.__version__}, "
        f"{f'torch {theirs.VERSION}' if theirs else 'torch is not installed: ours alone'}\n"
        f"{options}",
        flush=True,
    )
    if options.quality is not None:
        return quality.measure(options.quality, options.clips)
    # float32 in full on GPUs and TPUs, as PyTorch's side.
    jax.config.update("jax_default_matmul_precision", "highest")
    failed = False
    for dtype in options.dtypes:
        config = configuration(options.preset, dtype=dtype, tiny=options.quick)
        model = random_model(config)
        peak = _matmul_rate(dtype, size=512 if options.quick else _MATRIX[device.platform == "cpu"])
        print(f"{dtype}: products of matrices at {peak / 1e12:.4g} TFLOP/s\n{HEADER}", flush=True)
        for size in map(Size.parse, options.sizes):
            for part in ("encode", "decode"):
                failed |= not _rows(part, model, size, peak, options)
    if failed:
        sys.exit(1)


_MATRIX = {True: 2048, False: 8192}


def _matmul_rate(dtype: DType, *, size: int) -> float:
    sides = [ours, *([theirs] if theirs else [])]
    return max(side.matmul_rate(dtype, size=size) for side in sides)


def _rows(part: Part, model: VideoVAE, size: Size, peak: float, options: Benchmark) -> bool:
    """Measures and prints the sides of a table's part; whether all of them ran."""
    array = random_input(part, model.config, size.chunk)
    builders = {"cvvae_jax": lambda: ours.Ours(part, model, array)}
    for variant in options.torch if theirs else ():
        builders[f"torch {variant}"] = lambda v=variant: theirs.Theirs(part, model, array, v)
    sides: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for name, build in builders.items():
        side = _try(name, failures, build)
        sides |= {name: side} if side else {}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    outputs: dict[str, np.ndarray] = {}
    peaks: dict[str, int] = {}
    for i in range(options.warm_up + options.repeats):
        for name, side in sides.items():
            if name not in failures:
                start = time.perf_counter()
                with memory.Added() as added:
                    last = _try(name, failures, lambda side=side: _chunks(side, size))
                if i >= options.warm_up:
                    seconds[name].append(time.perf_counter() - start)
                if i == 0 and name not in failures:
                    outputs[name] = side.as_array(last)
                    peaks[name] = side.device_bytes() or added.bytes
    if options.convolutions and "cvvae_jax" in sides:
        for what, count in sides["cvvae_jax"].convolutions().most_common():
            print(f"{part} {size}: {count} of {what}", flush=True)
    if options.profile and "cvvae_jax" not in failures:
        _trace(part, sides["cvvae_jax"], size, model.config.dtype, options)
    counts = [count * size.chunks for count in operations(part, model.config, array)]
    for name in builders:
        title = f"{part} {size} {name}"
        if name in failures:
            print(f"{title:34} {failures[name]}", flush=True)
            continue
        # PyTorch executes the official operations.
        own = counts if name == "cvvae_jax" else [counts[0]] * 2
        cells = _cells(size, sides[name].compile_seconds, seconds[name], own, peak)
        print(f"{title:34}{cells.format(memory=peaks[name] / 2**30)}{_apart(name, outputs):>12}")
    return not failures


def _trace(part: Part, side: ours.Ours, size: Size, dtype: DType, options: Benchmark) -> None:
    folder = options.profile_folder / f"{dtype}-{part}-{size}"
    with jax.profiler.trace(folder):
        for run in range(options.profile):
            with jax.profiler.StepTraceAnnotation(part, step_num=run):
                _chunks(side, size)
    print(f"{part} {size}: a trace of {options.profile} runs is in {folder}", flush=True)


def _chunks(side: Any, size: Size) -> Any:
    """The last one's output."""
    return [side() for _ in range(size.chunks)][-1]


def _cells(
    size: Size, compile_seconds: float, seconds: list[float], counts: list[float], peak: float
) -> str:
    best, median = min(seconds), statistics.median(seconds)
    used = "".join(f"{100 * count / best / peak:>12.1f}" for count in counts)
    return (
        f"{compile_seconds:>10.1f}{best:>9.3f}{median:>10.3f}{size.frames / best:>10.2f}"
        f"{{memory:>7.2f}}{used}"
    )


def _apart(name: str, outputs: dict[str, np.ndarray]) -> str:
    """The largest difference to ours, of the largest value."""
    if name == "cvvae_jax" or "cvvae_jax" not in outputs:
        return ""
    ours_output = outputs["cvvae_jax"]
    return f"{np.abs(outputs[name] - ours_output).max() / np.abs(ours_output).max():.1e}"


def _try(name: str, failures: dict[str, str], act: Callable[[], Any]) -> Any:
    """A side that doesn't fit leaves the others their rows."""
    try:
        return act()
    except Exception as error:  # whatever a compiler or allocator raises
        text = str(error).strip().splitlines() or [""]
        failures[name] = f"failed: {type(error).__name__}: {text[0]}"[:150]


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

"""How long training steps of a full-width video VAE take, and how much memory, beside PyTorch.

    python -m benchmarks.train_step --torch                 # the whole table, on any device
    python -m benchmarks.train_step --tiny --torch          # small widths, for CPUs
    python -m benchmarks.train_step --tiny --torch --widths 64 128 256 256    # wider and deeper

Networks are of the official shapes (video VAE, discriminator, frozen image VAE, LPIPS) with random
weights, which speed and memory don't depend on. Compiling takes most of the time: options choose
rows, and JAX_COMPILATION_CACHE_DIR names a folder that keeps programs for another run. What steps
take on TPUs that aren't there: `python -m cvvae_jax preflight`.
"""

import dataclasses
import os
import platform
import sys
from pathlib import Path
from typing import get_args

import tyro

from benchmarks.train_step.setting import Family, Kind, Precision, Row, Updates
from benchmarks.train_step.table import HEADER, LEGEND, line
from benchmarks.train_step.workers import OUT_OF_MEMORY, Result, measure
from cvvae_jax.config import Remat


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Rows are all combinations of batches, updates, precisions and remat policies."""

    family: Family = "sd3"
    """Official architecture and recipe."""
    batches: tuple[Kind, ...] = get_args(Kind)
    """A clip of 17 x 256 x 256, or 8 images of 320 x 320, a device."""
    updates: tuple[Updates, ...] = get_args(Updates)
    """One step of each network in turn, or steps of both at once."""
    precisions: tuple[Precision, ...] = get_args(Precision)
    """float32 with exact products; float32 with the device's own products; bfloat16."""
    remats: tuple[Remat, ...] = get_args(Remat)
    """What is computed again in the backward pass."""
    torch: bool = False
    """Also the same step in PyTorch, on CUDA where there is one."""
    tiny: bool = False
    """Small widths and frames, and half the depth."""
    widths: tuple[int, ...] = ()
    """Other channels of the levels, at the official depth; with `tiny`, of small frames."""
    devices: int = 1
    """Devices that train together; PyTorch's rows are always one's."""
    warm_up: int = 2
    """Steps before any is timed."""
    repeats: int = 5
    """Timed steps; the median is printed."""
    in_turns: bool | None = None
    """Whether rows of one kind of batch and update take turns, step by step, all in memory; unset:
    with `tiny`, which is for CPUs."""
    profile: Path | None = None
    """Folder for a trace by jax's profiler of three steps of every row of ours."""


def main(options: Benchmark) -> None:
    """Prints a line about the machine, then the table, as it is measured."""
    print(
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores\n"
        f"{options}",
        flush=True,
    )
    in_turns = options.tiny if options.in_turns is None else options.in_turns
    results = measure(
        list(rows(options)),
        warm_up=options.warm_up,
        repeats=options.repeats,
        profile=options.profile,
        in_turns=in_turns,
    )
    print(LEGEND, flush=True)
    failed = False
    announced = set()
    for result in results:
        announced = _announce(result, announced)
        print(line(result), flush=True)
        failed |= not (result.failure or OUT_OF_MEMORY).startswith(OUT_OF_MEMORY)
    if failed:
        sys.exit(1)


def rows(options: Benchmark):
    """The rows of the table: ours, and PyTorch's behind those that they stand beside."""
    for kind in options.batches:
        for updates in options.updates:
            shared = {"kind": kind, "updates": updates, "family": options.family}
            shared |= {"tiny": options.tiny, "widths": options.widths}
            for precision in options.precisions:
                for remat in options.remats:
                    yield Row(
                        "jax",
                        precision=precision,
                        remat=remat,
                        devices=options.devices,
                        **shared,
                    )
            if options.torch:
                for precision in dict.fromkeys(
                    "bfloat16" if p == "bfloat16" else "default" for p in options.precisions
                ):
                    yield Row("torch", precision=precision, remat="none", devices=1, **shared)


def _announce(result: Result, announced: set[str]) -> set[str]:
    """Says once on what every side runs, and what a batch is."""
    row, facts = result.row, result.facts
    bucket = row.bucket
    size = f"{bucket.height} x {bucket.width}"
    lines = [f"{row.kind}: {bucket.batch} x {bucket.frames} frames of {size}"]
    if facts:
        lines.insert(0, f"{row.side}: {facts['device']}, {facts['versions']}")
    new = [text for text in lines if text not in announced]
    if new:
        print("\n".join(new) + f"\n{HEADER}", flush=True)
    return announced | set(lines)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

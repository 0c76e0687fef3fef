"""How fast each convolution of a video VAE is, forward and both gradients, in every form.

    python -m benchmarks.convolutions --size 9x64x64 --widths 64 128 256 256    # for CPUs
    python -m benchmarks.convolutions --size 17x256x256 --dtype bfloat16 --chosen-alone
    python -m benchmarks.convolutions --quick                                   # seconds

The distinct convolutions of an encoder and a decoder, by the most operations first. A row has one
pass of one convolution: milliseconds, and what part of the device's own rate of matrix products
that is, counted by the operations of the definition (a form that executes fewer may be above 100).
All forms take turns, so that whatever else the machine does slows all of them; the shortest time is
printed. The last lines sum each form over all convolutions, each as often as it occurs.
"""

import dataclasses
import os
import time
from collections import defaultdict
from typing import Any

import jax
import numpy as np
import tyro

from benchmarks.codec import ours as codec_ours
from benchmarks.codec.setting import Size, configuration
from benchmarks.convolutions import ours
from benchmarks.convolutions.shapes import Shape, distinct
from cvvae_jax.config import DType
from cvvae_jax.models.video_vae import PresetName

try:
    from benchmarks.codec import theirs as codec_theirs
    from benchmarks.convolutions import theirs
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    codec_theirs = theirs = None

# Of the largest value: float32's digits, and bfloat16's, in sums in another order.
TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2}


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is measured."""

    preset: PresetName = "sd21"
    """Official architecture."""
    size: str = "17x256x256"
    """Frames (1 + 4k), height and width of the video that the encoder sees."""
    widths: tuple[int, ...] | None = None
    """Channels of the levels; the official ones by default."""
    dtype: DType = "float32"
    """Of the arrays."""
    forms: tuple[str, ...] = ()
    """Measure these of our forms alone; all by default."""
    chosen_alone: bool = False
    """Measure of our forms the chosen one alone, and PyTorch."""
    most: int | None = None
    """Measure so many convolutions alone, those with the most operations."""
    repeats: int = 5
    """Rounds that are timed."""
    quick: bool = False
    """Small widths, one small size."""


def main(options: Benchmark) -> None:
    """Prints a line about the machine, then the table, as it is measured."""
    if options.quick:
        options = dataclasses.replace(options, size="5x32x32", repeats=1)
    jax.config.update("jax_default_matmul_precision", "highest")
    config = configuration(options.preset, dtype=options.dtype, tiny=options.quick)
    if options.widths is not None:
        config = dataclasses.replace(config, block_channels=options.widths)
    device = jax.devices()[0]
    peak = _matmul_rate(options.dtype, size=512 if options.quick else _MATRIX[device.platform])
    torch = f"torch {codec_theirs.VERSION}" if theirs else "torch is not installed"
    print(
        f"{device.device_kind} ({device.platform}), {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, jax {jax.__version__}, {torch}\n{options}\n"
        f"{options.dtype}: products of matrices at {peak / 1e12:.4g} TFLOP/s",
        flush=True,
    )
    totals: dict[tuple[str, str], list[float]] = defaultdict(list)
    found = list(distinct(config, Size.parse(options.size)).items())[: options.most]
    for shape, count in found:
        print(f"{shape}: {count} times, {shape.operations / 1e9:.2f} GFLOP", flush=True)
        for which in ours.PASSES:
            seconds = _measure(shape, which, options)
            for name, value in seconds.items():
                totals[which, name].append(count * value)
            cells = (
                f"{name} {1e3 * value:.2f} ms {100 * shape.operations / value / peak:.0f} %"
                for name, value in sorted(seconds.items(), key=lambda pair: pair[1])
            )
            print(f"  {which:10}{', '.join(cells)}", flush=True)
    print(f"All {len(found)} convolutions, as often as they occur, in the forms that have all:")
    for (which, name), values in totals.items():
        if len(values) == len(found):
            print(f"  {which:10}{name:20}{1e3 * sum(values):10.1f} ms")


_MATRIX = {"cpu": 2048, "gpu": 8192, "tpu": 8192}


def _matmul_rate(dtype: DType, *, size: int) -> float:
    sides = [codec_ours, *([codec_theirs] if codec_theirs else [])]
    return max(side.matmul_rate(dtype, size=size) for side in sides)


def _measure(shape: Shape, which: str, options: Benchmark) -> dict[str, float]:
    """The shortest time of every side, in seconds."""
    forms = ours.forms(shape)
    names = ("chosen",) if options.chosen_alone else options.forms or tuple(forms)
    sides: dict[str, Any] = {
        name: ours.Ours(shape, forms[name], which, options.dtype) for name in names if name in forms
    }
    for variant in theirs.VARIANTS if theirs else ():
        sides[variant] = theirs.Theirs(shape, variant, which, options.dtype)
    _check({name: side.as_array(side()) for name, side in sides.items()}, options.dtype)
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in seconds.items()}


def _check(outputs: dict[str, np.ndarray], dtype: DType) -> None:
    """Ends the run where two sides disagree: they would not compute the same."""
    (first, expected), *others = outputs.items()
    for name, output in others:
        apart = np.abs(output - expected).max() / np.abs(expected).max()
        if not apart < TOLERANCES[dtype]:
            raise AssertionError(f"{name} and {first} are {apart:.1e} of the largest value apart.")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

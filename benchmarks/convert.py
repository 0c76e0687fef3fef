"""How long the weights of a full-width video VAE take from PyTorch to JAX and back, and how much
memory, beside a plain read and write of the same file with safetensors.

    python -m benchmarks.convert --folder /dev/shm

Random weights in the official names and shapes of CV-VAE v1 (730 MB). Every kind of run has a
process of its own, so that peaks of memory are its own, and they take turns. Times are taken inside
the process, after imports: the whole command, hash, checks and model card included.
"""

import contextlib
import dataclasses
import io
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import tyro

WEIGHTS = "diffusion_pytorch_model.safetensors"
KINDS = ("plain read and write", "torch to jax", "jax to torch", "cvvae_jax.load of torch")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Conversions of one full-width model."""

    repeats: int = 5
    """Processes of every kind; the median and the fastest are printed."""
    folder: Path | None = None
    """Where files are written, with 3 GB free; unset: the system's folder for temporary files."""


def main(options: Benchmark) -> None:
    """Prints a line about the machine, then one for every kind of run."""
    import jax
    import numpy as np
    import safetensors

    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, jax {jax.__version__}, numpy {np.__version__}, safetensors "
        f"{safetensors.__version__}, {options}"
    )
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        with spawn.Pool(1) as pool:
            megabytes = pool.apply(prepare, (folder,))
        results = {kind: [] for kind in KINDS}
        for _ in range(options.repeats):
            for kind in KINDS:
                with spawn.Pool(1) as pool:
                    results[kind].append(pool.apply(measure, (kind, folder)))
    plain = statistics.median(seconds for seconds, _, _ in results[KINDS[0]])
    print(f"file of {megabytes:.0f} MB\n{'':<26}median s  fastest s  x plain  peak MB  before, MB")
    for kind, runs in results.items():
        seconds, peaks, before = zip(*runs, strict=True)
        middle = statistics.median(seconds)
        print(
            f"{kind:<26}{middle:8.2f}  {min(seconds):9.2f}  {middle / plain:7.2f}"
            f"  {max(peaks):7.0f}  {max(before):10.0f}"
        )


def prepare(folder: str) -> float:
    """Writes the PyTorch files and our checkpoint of the same model; the weights' megabytes."""
    import jax
    import numpy as np

    from cvvae_jax.convert.convert import abstract_model
    from cvvae_jax.convert.export import write_official
    from cvvae_jax.models.video_vae import PRESETS, VideoVAE

    rng = np.random.default_rng(0)
    abstract = abstract_model(VideoVAE, PRESETS["sd21"])
    model = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32) - 0.5, abstract)
    write_official(model, Path(folder) / "torch")
    convert(Path(folder) / "torch", Path(folder) / "ours")
    return (Path(folder) / "torch" / WEIGHTS).stat().st_size / 1e6


def measure(kind: str, folder: str) -> tuple[float, float, float]:
    """Seconds, and the process's megabytes at their peak and before, of one run."""
    import jax
    from safetensors.numpy import load_file, save_file

    from cvvae_jax import loading

    jax.config.update("jax_platforms", "cpu")
    jax.device_put(0.0).block_until_ready()
    torch, ours, target = (Path(folder) / name for name in ("torch", "ours", "target"))
    before, start = peak_megabytes(), time.perf_counter()
    match kind:
        case "plain read and write":
            save_file(load_file(torch / WEIGHTS), target, metadata={"format": "pt"})
        case "torch to jax":
            convert(torch, target)
        case "jax to torch":
            convert(ours, target)
        case _:
            jax.block_until_ready(loading.load(torch))
    seconds, peak = time.perf_counter() - start, peak_megabytes()
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    return seconds, peak, before


def convert(source: Path, target: Path) -> None:
    """The command `convert`, in this process."""
    from cvvae_jax.cli.main import main as command

    with contextlib.redirect_stdout(io.StringIO()):
        assert command(["convert", str(source), str(target)]) == 0


def peak_megabytes() -> float:
    """The most memory this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

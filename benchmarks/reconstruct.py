"""How fast a full-width video VAE encodes and decodes a chunk, and how far that is from the floor.

    python -m benchmarks.reconstruct --preset sd21 --size 256 --dtype bfloat16 --peak 788

Random weights of the official shapes: speed and memory don't depend on their values. Operations
are those of XLA's own count for the compiled program; `--peak`, in TFLOP/s, is the device's.
"""

import dataclasses
import resource
import time

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from cvvae_jax.config import DType
from cvvae_jax.models.video_vae import PRESETS, PresetName, VideoVAE


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One chunk through an official architecture, encoder and decoder timed apart."""

    preset: PresetName = "sd21"
    """Official architecture."""
    frames: int = 17
    """Frames, 1 + 4k."""
    size: int = 256
    """Height and width in pixels, a multiple of 8."""
    dtype: DType = "float32"
    """Type of computation and parameters."""
    repeats: int = 3
    """Timed runs; the median is printed."""
    peak: float | None = None
    """The device's peak rate in TFLOP/s, for the floor."""


def main(options: Benchmark) -> None:
    """Prints a line about the machine, then one for the encoder and one for the decoder."""
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), jax {jax.__version__}, {options}")
    config = dataclasses.replace(
        PRESETS[options.preset], dtype=options.dtype, param_dtype=options.dtype
    )
    vae = jax.jit(lambda key: VideoVAE(config, rngs=nnx.Rngs(key)))(jax.random.key(0))
    video = jnp.zeros((1, options.frames, options.size, options.size, 3), options.dtype)
    encode = lambda vae, x: vae.encode(x).mode()  # noqa: E731
    latents = measure("encode", encode, vae, video, options)
    measure("decode", VideoVAE.decode, vae, latents, options)
    print(f"peak host memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def measure(name: str, function, vae: VideoVAE, array: jax.Array, options: Benchmark) -> jax.Array:
    """Compiles, runs and prints; returns the output."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(vae, array).compile()
    compile_seconds = time.perf_counter() - start
    times = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        out = jax.block_until_ready(compiled(vae, array))
        times.append(time.perf_counter() - start)
    seconds = sorted(times)[len(times) // 2]
    operations = compiled.cost_analysis()["flops"] / 1e12
    memory = compiled.memory_analysis()
    line = (
        f"{name}: {seconds:.3f} s ({options.frames / seconds:.2f} frames/s), "
        f"{operations:.2f} TFLOP, {operations / seconds:.3f} TFLOP/s, "
        f"compiled in {compile_seconds:.1f} s, "
        f"temporaries {memory.temp_size_in_bytes / 2**30:.2f} GiB"
    )
    if options.peak:
        line += f", {seconds / (operations / options.peak):.2f} x the floor"
    print(line, flush=True)
    return out


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

"""Our encoder and decoder, compiled, on the first device."""

import re
import time
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.codec.setting import Part, run
from cvvae_jax.models.video_vae import VideoVAE

# On GPUs a convolution is a call of cuDNN; on TPUs and CPUs it stays an operation of XLA.
_CONVOLUTION = re.compile(
    r"= \(?(?P<result>\w+\[[\d,]*\]\{[\d,]*)\S* (?P<kind>convolution|custom-call)\(.*"
    r"dim_labels=(?P<labels>[\w>-]+)"
)
_TARGET = re.compile(r'custom_call_target="([^"]+)"')


class Ours:
    """A program of one chunk."""

    name = "cvvae_jax"

    def __init__(self, part: Part, model: VideoVAE, array: np.ndarray):
        self._model = model
        self._array = jnp.asarray(array, model.config.dtype)
        start = time.perf_counter()
        program = jax.jit(lambda model, array: run(part, model, array))
        self._program = program.lower(model, self._array).compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self) -> jax.Array:
        """One chunk, to its end."""
        return jax.block_until_ready(self._program(self._model, self._array))

    def as_array(self, output: jax.Array) -> np.ndarray:
        """In float32."""
        return np.asarray(output, np.float32)

    def convolutions(self) -> Counter[str]:
        """How often the compiled program has each kind of convolution: its target, which is a
        library's or XLA's own, its order of axes, and its result's type and layout."""
        found = Counter()
        for line in self._program.as_text().splitlines():
            if match := _CONVOLUTION.search(line):
                target = _TARGET.search(line)
                kind = target[1] if target else match["kind"]
                dtype, layout = re.sub(r"\[[\d,]*\]", " ", match["result"]).split()
                found[f"{kind} {match['labels']} {dtype} {layout}}}"] += 1
        return found

    def device_bytes(self) -> int | None:
        """The most memory that the program takes by its compiler's plan; None on CPUs, where it is
        measured."""
        if jax.default_backend() == "cpu":
            return None
        plan = self._program.memory_analysis()
        sizes = (plan.argument_size_in_bytes, plan.temp_size_in_bytes, plan.output_size_in_bytes)
        return sum(sizes)


def matmul_rate(dtype: str, *, size: int) -> float:
    """Operations per second of a product of square matrices by XLA."""
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(lambda matrix: matrix @ matrix)
    product(matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product(matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)

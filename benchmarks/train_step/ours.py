"""Our training step, compiled, on the devices at hand."""

import time
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np
from jax.sharding import Mesh

from benchmarks.train_step.setting import Networks, Row, job_of, random_batch
from cvvae_jax import sharding
from cvvae_jax.config import MeshConfig
from cvvae_jax.hardware import peak_flops
from cvvae_jax.training.jobs import video_shape
from cvvae_jax.training.programs import TrainProgram, TrainPrograms


class OurStep:
    """Networks, a batch and programs of a row; a call is a step of every kind."""

    def __init__(self, row: Row):
        config = row.config
        jax.config.update("jax_default_matmul_precision", config.matmul_precision)
        self._device = jax.devices()[0]
        devices = jax.devices()[: row.devices]
        mesh = sharding.make_mesh(MeshConfig(), batches=(row.bucket.batch,), devices=devices)
        job = job_of(config, mesh)
        networks = Networks.random(row)
        self._frozen = _on(mesh, networks.frozen)
        self._state = _on(mesh, networks.state(config))
        batch = random_batch(row.bucket) | {"stop": np.zeros(row.bucket.batch, np.uint8)}
        self._batch = sharding.put_batch(batch, mesh)
        programs = TrainPrograms(job, config, self._state, self._frozen)
        shape = video_shape(row.bucket)
        self.programs: dict[str, TrainProgram] = {
            update: programs.compile(update, shape) for update in row.programs
        }
        self.metrics: dict[str, Any] = {}

    def __call__(self) -> dict[str, float]:
        """Seconds of each."""
        seconds = {}
        for update, program in self.programs.items():
            start = time.perf_counter()
            self._state, metrics = program.compiled(self._state, self._batch, self._frozen)
            jax.block_until_ready((self._state, metrics))
            seconds[update] = time.perf_counter() - start
            self.metrics |= metrics
        return seconds

    def facts(self) -> dict[str, Any]:
        """What doesn't change from step to step."""
        programs = self.programs.values()
        return {
            "device": f"{self._device.device_kind} ({self._device.platform})",
            "versions": f"jax {jax.__version__}, jaxlib {jaxlib.__version__}",
            "peak_flops": peak_flops(self._device.device_kind),
            "executed": sum(program.executed_flops for program in programs),
            "compile_seconds": sum(program.seconds for program in programs),
            "planned_bytes": max(planned_bytes(program.compiled) for program in programs),
        }

    def peak_bytes(self) -> int | None:
        """The most memory that the device ever gave; None where it doesn't count."""
        statistics = self._device.memory_stats() or {}
        return statistics.get("peak_bytes_in_use")

    def profile(self, folder: Path, *, steps: int = 3) -> None:
        """Writes a trace of some steps."""
        with jax.profiler.trace(str(folder)):
            for _ in range(steps):
                self()


def planned_bytes(compiled: jax.stages.Compiled) -> int:
    """Memory of a device that a program takes by its compiler's plan."""
    memory = compiled.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs


def _on(mesh: Mesh, tree: Any) -> Any:
    return jax.block_until_ready(jax.device_put(tree, sharding.shardings(tree, mesh)))

"""How fast training goes, and what it waits for."""

import contextlib
import time
from collections.abc import Iterator
from typing import TypeVar

from jax.sharding import Mesh

from cvvae_jax.training.flops import peak_flops
from cvvae_jax.training.programs import Program

Item = TypeVar("Item")


class Throughput:
    """Frames and operations a second and time spent waiting for data, since it was last asked."""

    def __init__(self, mesh: Mesh):
        self._devices, self._peak = mesh.size, peak_flops(mesh.devices.flat[0])
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._frames = self._steps = self._flops = 0
        self._paused = self._waited = 0.0

    def timed(self, stream: Iterator[Item]) -> Iterator[Item]:
        """A stream, the wait for whose items counts as waiting for data."""
        while True:
            start = time.perf_counter()
            try:
                item = next(stream)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield item

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time that isn't training: compiling, evaluating, saving."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def count(self, program: Program) -> None:
        """One more step, done."""
        self._steps += 1
        self._frames += program.frames
        self._flops += program.flops

    def metrics(self) -> dict[str, float]:
        """Since the last call: frames a second and device, seconds a step waited for data, and,
        where the device's peak is known, the fraction of it that the model's operations are."""
        seconds = max(time.perf_counter() - self._since - self._paused, 1e-9)
        metrics = {
            "throughput/frames_per_second_per_device": self._frames / seconds / self._devices,
            "throughput/data_wait_seconds": self._waited / max(self._steps, 1),
        }
        if self._peak:
            rate = self._flops / seconds / self._devices
            metrics["throughput/model_flop_utilization"] = rate / self._peak
        self._reset()
        return metrics

"""Compiles a training step for devices that are not there: TPU slices, GPUs or virtual CPUs.

For a TPU slice, another process compiles (`python -m cvvae_jax.preflight.compiler FOLDER`) and is
stopped early. It first writes the counted operations. The compiler then writes the scheduled
program and the address of every array in memory, which is all that is read, and goes on to generate
machine code, which takes ten times as long and is not needed.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import jax

from cvvae_jax.config import TrainConfig
from cvvae_jax.config.reading import build, parse
from cvvae_jax.errors import UserError
from cvvae_jax.hardware import CHIPS, GPUS, TPUS, Chip
from cvvae_jax.preflight.cost import (
    Memory,
    Traffic,
    collective_traffic,
    memory_from_buffer_assignment,
)
from cvvae_jax.recipe import to_json
from cvvae_jax.training.jobs import plan_run
from cvvae_jax.training.programs import NAME, AbstractStage, abstract_stages
from cvvae_jax.training.step import Update

_ACCEPTED = (
    f"a TPU slice ({', '.join(TPUS)}) such as v5e:4x8 or v5p:4x4x4, cpu:8, or GPUs "
    f"({', '.join(GPUS)}) such as gpu:8xH100"
)

# Without these, libtpu looks for minutes for the TPU VM that it runs on.
_LIBTPU_WITHOUT_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # libtpu's lock protects TPUs, and there are none
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """The devices that a run is planned for."""

    name: str
    """Name that the user gave, such as `v5e:4x8`."""
    kind: Literal["tpu", "gpu", "cpu"]
    count: int
    """Number of devices."""
    chip: Chip | None
    """Data of the devices; None for CPUs."""

    @classmethod
    def parse(cls, name: str) -> "Topology":
        """Parse a name such as `v5e:4x8`, `gpu:8xH100` or `cpu:8`.

        Raises:
            UserError: there is no such topology.
        """
        if match := re.fullmatch(rf"({'|'.join(TPUS)}):(\d+(?:x\d+){{1,2}})", name):
            count = math.prod(map(int, match[2].split("x")))
            return cls(name, "tpu", count, CHIPS[match[1]])
        if match := re.fullmatch(rf"gpu:([1-9]\d*)x({'|'.join(GPUS)})", name):
            return cls(name, "gpu", int(match[1]), CHIPS[match[2]])
        if match := re.fullmatch(r"cpu:([1-9]\d*)", name):
            return cls(name, "cpu", int(match[1]), None)
        raise UserError(f"{name} is no known topology; known are {_ACCEPTED}.")

    def devices(self) -> list[Any]:
        """Devices to compile for: descriptions of TPUs, or virtual CPUs in place of CPUs and GPUs.

        Call this before jax is used, since jax fixes its number of CPUs at the first use.

        Raises:
            UserError: libtpu is missing or knows no such slice, or jax already runs with fewer
                CPUs.
        """
        jax.config.update("jax_platforms", "cpu")  # keeps jax from looking for accelerators
        if self.kind == "tpu":
            return self._described()
        with contextlib.suppress(RuntimeError):  # jax runs already, perhaps with enough CPUs
            jax.config.update("jax_num_cpu_devices", self.count)
        if len(jax.devices()) < self.count:
            raise UserError(
                f"{self.name} needs {self.count} virtual CPUs, and jax began with "
                f"{len(jax.devices())}; unset XLA_FLAGS."
            )
        return jax.devices()[: self.count]

    def versions(self) -> str:
        """Versions of the compiler: jax and, for TPUs, libtpu."""
        versions = f"jax {jax.__version__}"
        if self.kind == "tpu":
            versions += f", libtpu {importlib.metadata.version('libtpu')}"
        return versions

    def _described(self) -> list[Any]:
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(
                f"{self.name}: compiling for TPUs needs libtpu, also on a machine without TPUs: "
                "pip install libtpu."
            )
        from jax.experimental import topologies

        for name, value in _LIBTPU_WITHOUT_TPU.items():
            os.environ.setdefault(name, value)
        try:
            described = topologies.get_topology_desc(platform="tpu", topology_name=self.name)
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
            raise UserError(f"libtpu knows no slice {self.name}: {reason}.") from error
        return list(described.devices)


_COUNTED = "counted.json"


@dataclasses.dataclass(frozen=True)
class CompileRequest:
    """A step to compile."""

    config: TrainConfig
    topology: str
    stage: int
    """Number of the stage in the run."""
    update: Update
    video_shape: tuple[int, ...]
    """Shape (b, t, h, w, 3) of the global batch."""

    def write(self, path: Path) -> None:
        """Write the request as JSON."""
        path.write_text(to_json(self))

    @classmethod
    def read(cls, path: Path) -> "CompileRequest":
        """Read a request that `write` wrote."""
        return build(cls, parse(path.read_text(), str(path)))


_PROGRAM = f"*{NAME}*after_optimizations.txt"
_ASSIGNMENT = f"*{NAME}*after_optimizations-buffer-assignment.txt"
_LAST_WRITTEN = f"*{NAME}*after_optimizations_after_buffer_assignment.txt"
_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"


@dataclasses.dataclass(frozen=True)
class StepCost:
    """What a step costs."""

    flops: float
    """Operations of the model, summed over all devices."""
    executed_flops: float
    """All operations, including those that rematerialization repeats, over all devices."""
    memory: Memory
    """Memory of each device."""
    traffic: list[Traffic]
    """Traffic of each device with other devices."""
    seconds: float
    """Seconds that compiling took."""


def compile_step(request: CompileRequest, stage: AbstractStage, topology: Topology) -> StepCost:
    """Compile a step: for a TPU slice in another process, or for the CPUs of this process.

    The cost of a step that needs more memory than a device has is returned like any other.

    Raises:
        RuntimeError: the compiler failed for another reason than lack of memory.
    """
    if topology.kind == "tpu":
        return _compile_elsewhere(request, stage.job.mesh.size)
    start = time.perf_counter()
    step = stage.programs(request.config).lower(request.update, request.video_shape)
    compiled = step.lowered.compile()
    stats = compiled.memory_analysis()
    memory = Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
    )
    seconds = time.perf_counter() - start
    traffic = collective_traffic(compiled.as_text(), devices=stage.job.mesh.size)
    return StepCost(step.flops, step.executed_flops, memory, traffic, seconds)


def _compile_elsewhere(request: CompileRequest, devices: int) -> StepCost:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request.write(folder / "request.json")
        with open(folder / "log.txt", "w") as log:
            command = [sys.executable, "-m", "cvvae_jax.preflight.compiler", str(folder)]
            process = subprocess.Popen(
                command, env=_environment(folder), stdout=log, stderr=log, cwd=_parent_folder()
            )
            try:
                while process.poll() is None and not _is_written(folder):
                    time.sleep(0.5)
            finally:
                process.kill()
                process.wait()
        last = (folder / "log.txt").read_text()[-2000:]
        # If memory is too small, the compiler tries again in other ways. The files of its last try
        # stay.
        if not _is_written(folder) and _OUT_OF_MEMORY not in last:
            raise RuntimeError(f"compiling for {request.topology} failed:\n{last}")
        counted = json.loads((folder / _COUNTED).read_text())
        memory = memory_from_buffer_assignment(_read(folder, _ASSIGNMENT))
        traffic = collective_traffic(_read(folder, _PROGRAM), devices=devices)
    seconds = time.perf_counter() - start
    return StepCost(**counted, memory=memory, traffic=traffic, seconds=seconds)


def _environment(folder: Path) -> dict[str, str]:
    dump = f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*{NAME}.*"
    return {
        **os.environ,
        **_LIBTPU_WITHOUT_TPU,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # a cached program would leave no files to read
        "XLA_FLAGS": dump,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def _parent_folder() -> Path:
    return Path(__file__).parents[2]


def _is_written(folder: Path) -> bool:
    """Whether the compiler has written all files that are read.

    Its last file holds the same program as an earlier file, so that both have one size at the end.
    """
    return 0 < _size(folder, _PROGRAM) == _size(folder, _LAST_WRITTEN)


def _size(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def _read(folder: Path, pattern: str) -> str:
    (path,) = folder.glob(pattern)
    return path.read_text()


def main(folder: Path) -> None:
    """Compile the step that `request.json` in the folder asks for."""
    request = CompileRequest.read(folder / "request.json")
    config = request.config
    devices = Topology.parse(request.topology).devices()
    with jax.default_matmul_precision(config.matmul_precision):
        plan = plan_run(config, allow_missing=True, devices=devices)
        programs = abstract_stages(plan, config)[request.stage].programs(config)
        step = programs.lower(request.update, request.video_shape)
        counted = {"flops": step.flops, "executed_flops": step.executed_flops}
        (folder / _COUNTED).write_text(json.dumps(counted))
        step.lowered.compile()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

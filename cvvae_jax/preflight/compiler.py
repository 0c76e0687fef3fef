"""A step compiled for devices that aren't there, as far as planning needs it."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cvvae_jax.preflight.cost import Memory, Traffic, collectives, of_buffer_assignment
from cvvae_jax.preflight.topology import LIBTPU_WITHOUT_TPU, Topology
from cvvae_jax.preflight.worker import COUNTED, Request
from cvvae_jax.training.programs import NAME, AbstractStage

_PROGRAM = f"*{NAME}*after_optimizations.txt"
_ASSIGNMENT = f"*{NAME}*after_optimizations-buffer-assignment.txt"
_LAST_WRITTEN = f"*{NAME}*after_optimizations_after_buffer_assignment.txt"
_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"


@dataclasses.dataclass(frozen=True)
class Step:
    """What compiling a step says of it."""

    flops: float
    """Operations of the model, over all devices."""
    executed_flops: float
    """All operations, those done again for want of memory too."""
    memory: Memory
    """On every device."""
    traffic: list[Traffic]
    """Between devices, of every device."""
    seconds: float
    """How long compiling took."""


def compile_step(request: Request, stage: AbstractStage, topology: Topology) -> Step:
    """Compile, for a TPU slice in another process, else for the CPUs of this one.

    A step that takes more memory than there is comes back like any other.

    Raises:
        RuntimeError: the compiler failed for another reason.
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
    traffic = collectives(compiled.as_text(), devices=stage.job.mesh.size)
    return Step(step.flops, step.executed_flops, memory, traffic, seconds)


def _compile_elsewhere(request: Request, devices: int) -> Step:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request.write(folder / "request.json")
        with open(folder / "log.txt", "w") as log:
            command = [sys.executable, "-m", "cvvae_jax.preflight.worker", str(folder)]
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
        # Where memory is too small, the compiler tries again in other ways, and leaves what its
        # last try came to.
        if not _is_written(folder) and _OUT_OF_MEMORY not in last:
            raise RuntimeError(f"compiling for {request.topology} failed:\n{last}")
        counted = json.loads((folder / COUNTED).read_text())
        memory = of_buffer_assignment(_read(folder, _ASSIGNMENT))
        traffic = collectives(_read(folder, _PROGRAM), devices=devices)
    seconds = time.perf_counter() - start
    return Step(**counted, memory=memory, traffic=traffic, seconds=seconds)


def _environment(folder: Path) -> dict[str, str]:
    dump = f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*{NAME}.*"
    return {
        **os.environ,
        **LIBTPU_WITHOUT_TPU,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # what comes from a cache isn't compiled
        "XLA_FLAGS": dump,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def _parent_folder() -> Path:
    return Path(__file__).parents[2]


def _is_written(folder: Path) -> bool:
    """Whether the compiler has written all that is read: its last file stands for the others, and
    is as large as the same program was before."""
    return 0 < _size(folder, _PROGRAM) == _size(folder, _LAST_WRITTEN)


def _size(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def _read(folder: Path, pattern: str) -> str:
    (path,) = folder.glob(pattern)
    return path.read_text()

"""Devices that one doesn't have: `v5e:4x8`, `gpu:8xH100`, or so many virtual CPUs."""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
from typing import Any, Literal

import jax

from cvvae_jax.errors import UserError
from cvvae_jax.hardware import CHIPS, GPUS, TPUS, Chip

_ACCEPTED = (
    f"a TPU slice ({', '.join(TPUS)}) such as v5e:4x8 or v5p:4x4x4, cpu:8, or GPUs "
    f"({', '.join(GPUS)}) such as gpu:8xH100"
)

# libtpu looks for the machine that it is on, for minutes, and complains where it is none.
LIBTPU_WITHOUT_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # its lock is for TPUs that are there
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
    """As the user wrote it."""
    kind: Literal["tpu", "gpu", "cpu"]
    count: int
    """Devices."""
    chip: Chip | None
    """What they are; None for CPUs, whose memory nobody knows."""

    @classmethod
    def parse(cls, name: str) -> "Topology":
        """Of a name such as `v5e:4x8`.

        Raises:
            UserError: there is no such thing.
        """
        if match := re.fullmatch(rf"({'|'.join(TPUS)}):(\d+(?:x\d+){{1,2}})", name):
            count = math.prod(map(int, match[2].split("x")))
            return cls(name, "tpu", count, CHIPS[match[1]])
        if match := re.fullmatch(rf"gpu:([1-9]\d*)x({'|'.join(GPUS)})", name):
            return cls(name, "gpu", int(match[1]), CHIPS[match[2]])
        if match := re.fullmatch(r"cpu:([1-9]\d*)", name):
            return cls(name, "cpu", int(match[1]), None)
        raise UserError(f"{name} is no topology that is known; {_ACCEPTED} are.")

    def devices(self) -> list[Any]:
        """Devices to compile for: described ones for TPUs, virtual CPUs for all else.

        Must be asked for before jax is used, which decides on CPUs once.

        Raises:
            UserError: libtpu is missing or knows no such slice, or jax has fewer CPUs already.
        """
        jax.config.update("jax_platforms", "cpu")  # nothing may look for accelerators
        if self.kind == "tpu":
            return self._described()
        with contextlib.suppress(RuntimeError):  # jax runs already, maybe with enough of them
            jax.config.update("jax_num_cpu_devices", self.count)
        if len(jax.devices()) < self.count:
            raise UserError(
                f"{self.name} needs {self.count} virtual CPUs, and jax began with "
                f"{len(jax.devices())}; unset XLA_FLAGS."
            )
        return jax.devices()[: self.count]

    def versions(self) -> str:
        """Of what compiles: jax and, for TPUs, libtpu."""
        versions = f"jax {jax.__version__}"
        if self.kind == "tpu":
            versions += f", libtpu {importlib.metadata.version('libtpu')}"
        return versions

    def _described(self) -> list[Any]:
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(
                f"{self.name}: compiling for TPUs needs their compiler, also on a machine without "
                "any: pip install libtpu."
            )
        from jax.experimental import topologies

        for name, value in LIBTPU_WITHOUT_TPU.items():
            os.environ.setdefault(name, value)
        try:
            described = topologies.get_topology_desc(platform="tpu", topology_name=self.name)
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
            raise UserError(f"{self.name} is no slice that libtpu knows: {reason}.") from error
        return list(described.devices)

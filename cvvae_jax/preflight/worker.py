"""Compiles one step for a TPU slice in a process of its own, which can be stopped.

The process writes what it counted before it compiles; the compiler itself writes the scheduled
program and the place of every array in memory, and goes on to generate machine code, which takes
ten times as long and isn't needed (`compiler`).
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax

from cvvae_jax.config import TrainConfig
from cvvae_jax.config.reading import build, parse
from cvvae_jax.preflight.topology import Topology
from cvvae_jax.recipe import to_json
from cvvae_jax.training.jobs import plan_run
from cvvae_jax.training.programs import abstract_stages
from cvvae_jax.training.step import Update

COUNTED = "counted.json"


@dataclasses.dataclass(frozen=True)
class Request:
    """What to compile."""

    config: TrainConfig
    topology: str
    stage: int
    """Which of the run's stages."""
    update: Update
    video_shape: tuple[int, ...]
    """The global batch: (b, t, h, w, 3)."""

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(to_json(self))

    @classmethod
    def read(cls, path: Path) -> "Request":
        """What `write` wrote."""
        return build(cls, parse(path.read_text(), str(path)))


def main(folder: Path) -> None:
    """Compile what `request.json` in the folder asks for."""
    request = Request.read(folder / "request.json")
    config = request.config
    devices = Topology.parse(request.topology).devices()
    with jax.default_matmul_precision(config.matmul_precision):
        plan = plan_run(config, allow_missing=True, devices=devices)
        programs = abstract_stages(plan, config)[request.stage].programs(config)
        step = programs.lower(request.update, request.video_shape)
        counted = {"flops": step.flops, "executed_flops": step.executed_flops}
        (folder / COUNTED).write_text(json.dumps(counted))
        step.lowered.compile()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

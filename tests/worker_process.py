"""train.py without evaluations, whose programs take longer to compile than the rest of a short run.

It notes the seeds of the records of every step in the run folder, and has a fault on request:
FAULT=`KIND STEP` strikes before that step of this start. `raise` is an error of this process alone,
`leave` an early end without one, `stop` a SIGTERM, `pause` a wait for SIGUSR1, `hold` 40 seconds
in which no other thread gets Python's lock.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

import jax

from cvvae_jax.cli.main import run
from cvvae_jax.training import loop


class Feed:
    """Stands in for `sharding.put_batch`, and strikes at the batch that `FAULT` names."""

    def __init__(self, put_batch):
        self._put_batch, self._count = put_batch, 0
        self._kind, step = os.environ.get("FAULT", "none 0").split()
        self._step = int(step)

    def __call__(self, batch, mesh):
        self._count += 1
        if self._count == self._step:
            self._strike()
        placed = self._put_batch(batch, mesh)
        self._seeds = placed["seed"], jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        return placed

    def seeds(self):
        """The seeds of the newest batch; all processes have to ask for them together."""
        return sorted(jax.device_put(*self._seeds).tolist())

    def _strike(self):
        match self._kind:
            case "raise":
                raise ValueError("a fault of one process")
            case "leave":
                sys.exit(0)
            case "stop":
                os.kill(os.getpid(), signal.SIGTERM)
            case "hold":
                ctypes.PyDLL(None).sleep(40)
            case "pause":
                signal.sigwait({signal.SIGUSR1})


class Progress(loop.Progress):
    """With the seeds; what a kill left of later steps is forgotten, as in the log."""

    def __init__(self, job, *arguments):
        super().__init__(job, *arguments)
        self._seeds = job.folder / "seeds.txt"

    def step(self, step, metrics):
        super().step(step, metrics)
        seeds = loop.sharding.put_batch.seeds()
        if jax.process_index() == 0:
            known = self._seeds.read_text().splitlines() if self._seeds.exists() else []
            lines = [*known[: step - 1], " ".join(map(str, seeds))]
            partial = Path(f"{self._seeds}.partial")
            partial.write_text("\n".join(lines) + "\n")
            partial.replace(self._seeds)

    def evaluation(self, *_):
        pass


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    loop.sharding.put_batch = Feed(loop.sharding.put_batch)
    loop.Progress = Progress
    loop.report = lambda *_: {}
    run(["train", *sys.argv[1:]])

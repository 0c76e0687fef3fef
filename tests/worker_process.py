"""train.py without evaluations, whose programs take longer to compile than the rest of a short run,
and with a fault on request: FAULT=`KIND STEP` strikes before that step of this start.

`raise` is an error of this process alone, `leave` an early end without one.
"""

import itertools
import os
import sys

import train
from cvvae_jax.training import loop

loop.Progress.evaluation = lambda *_: None
loop.report = lambda *_: {}

if __name__ == "__main__":
    if fault := os.environ.get("FAULT"):
        kind, step = fault.split()
        count, put_batch = itertools.count(1), loop.sharding.put_batch

        def failing(batch, mesh):
            if next(count) < int(step):
                return put_batch(batch, mesh)
            if kind == "leave":
                sys.exit(0)
            raise ValueError("a fault of one process")

        loop.sharding.put_batch = failing
    sys.exit(train.main())

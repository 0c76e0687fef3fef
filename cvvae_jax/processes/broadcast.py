"""A result that process 0 computes for all processes, so that all of them take the same path."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax._src import distributed as jax_distributed  # its public part has no barriers
from jax.experimental import multihost_utils

from cvvae_jax.errors import UserError

_LONGEST_WAIT = 24 * 3600
"""Seconds; that another process has died is seen by `processes`, not by waiting."""


def wait_for_all(topic: str) -> None:
    """Waits until all processes of the run have come here, under a topic that is used once.

    Unlike the first collective among some devices, which gives up on CPUs after half a minute, this
    waits for a process that takes long, as one may that compiles on a machine with too much to do.
    """
    if jax.process_count() > 1:
        client = jax_distributed.global_state.client
        client.wait_at_barrier(f"cvvae_jax/{topic}", 1000 * _LONGEST_WAIT)


def broadcast_from_first(find: Callable[[], Any]) -> Any:
    """Calls a function on process 0, and returns its result on every process.

    Args:
        find: a function that returns a value for JSON.

    Raises:
        UserError: the function raised it on process 0; then every process raises it.
        OSError: likewise.
    """
    if jax.process_count() == 1:
        return find()
    mine: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            mine["found"] = find()
        except UserError as error:  # raised below, on every process
            mine["refused"] = str(error)
        except OSError as error:
            name = None if error.filename is None else str(error.filename)
            mine["error"] = [error.errno, error.strerror or str(error), name]
    answer = json.loads(_from_first(json.dumps(mine).encode()))
    if "refused" in answer:
        raise UserError(answer["refused"])
    if "error" in answer:
        raise OSError(*answer["error"])
    return answer["found"]


def _from_first(text: bytes) -> bytes:
    """Process 0's text, which is ASCII."""
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(text), np.int32)))
    padded = np.frombuffer(text.ljust(size)[:size], np.uint8)
    return multihost_utils.broadcast_one_to_all(padded).tobytes()

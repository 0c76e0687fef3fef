"""Whether a process of this machine still runs, as its kernel knows it.

A process that is only slow, or waits for its turn on a machine with too much to do, isn't dead.
"""

import contextlib
import os
import select
from pathlib import Path


def own_place() -> str:
    """Where this process runs: its number, and what tells its machine from others."""
    return f"{os.getpid()} {_machine()}"


class Neighbor:
    """Another process, which may run on this machine."""

    def __init__(self, place: str):
        """By what `own_place` was to it."""
        pid, _, machine = place.partition(" ")
        self._file: int | None = None
        self._gone = False
        if machine and machine == _machine():
            try:
                self._file = os.pidfd_open(int(pid))
            except ProcessLookupError:
                self._gone = True
            except OSError:  # a kernel that knows no such files
                pass

    @property
    def runs(self) -> bool | None:
        """Whether it does; None where that can't be seen from here. A process that has ended and
        whose parent hasn't asked for its exit code doesn't."""
        if self._file is None:
            return False if self._gone else None
        return not select.select([self._file], [], [], 0)[0]


def _machine() -> str:
    """What all processes that see each other's numbers have in common; empty where that is
    unknown."""
    if not hasattr(os, "pidfd_open"):
        return ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""

"""How process 0 finds out that another process has died: from the kernel, or from its silence.

A process that gives no sign of life may only be slow, or wait for its turn on a busy machine. So
the kernel is asked about processes of the same machine; those of another machine count as dead when
they are silent and a collective has failed, as it does where a connection breaks.
"""

import contextlib
import dataclasses
import os
import select
import time
from pathlib import Path

SILENCE = 20.0
"""Seconds without a sign of life after which a process is named, should jax find that it died."""
SUSPICIOUS_SILENCE = 10.0
"""Seconds without a sign of life after which a process of another machine counts as dead, once a
collective has failed."""


def own_place() -> str:
    """Where this process runs, as text: its process id, and an identifier of its machine."""
    return f"{os.getpid()} {_machine()}"


class LocalProcess:
    """Another process, of which the kernel tells whether it runs, if it is on this machine."""

    def __init__(self, place: str):
        """Takes what `own_place` returned in that process."""
        pid, _, machine = place.partition(" ")
        self._file: int | None = None
        self._gone = False
        if machine and machine == _machine():
            try:
                self._file = os.pidfd_open(int(pid))
            except ProcessLookupError:
                self._gone = True
            except OSError:  # the kernel has no process file descriptors
                pass

    @property
    def runs(self) -> bool | None:
        """Whether the process runs; None where this machine can't tell. A process that has ended
        does not run, even before its parent has asked for its exit code."""
        if self._file is None:
            return False if self._gone else None
        return not select.select([self._file], [], [], 0)[0]


@dataclasses.dataclass(frozen=True)
class Findings:
    """Processes that something is wrong with, by number."""

    silent: list[int]
    """Processes of other machines that gave no sign of life for `SILENCE`; they may still run."""
    dead: dict[int, str]
    """Processes that have died, and how that is known."""


class LifeSigns:
    """What process 0 remembers of the other processes' signs of life."""

    def __init__(self, count: int):
        """Starts the clock for a run of `count` processes."""
        start = time.monotonic()
        self._last: dict[int, tuple[str | None, float]] = dict.fromkeys(
            range(1, count), (None, start)
        )
        self._local: dict[int, LocalProcess] = {}

    def examine(
        self, signs: dict[int, str], places: dict[int, str], *, collective_failed: bool
    ) -> Findings:
        """Compares the newest signs of life with those of the call before.

        Args:
            signs: a text by process, which changes while the process lives.
            places: `own_place` by process.
            collective_failed: whether any process has met an error that another one's death may
                have caused.
        """
        now, silent, dead = time.monotonic(), [], {}
        for index, (before, since) in self._last.items():
            if index in places and index not in self._local:
                self._local[index] = LocalProcess(places[index])
            runs = self._local[index].runs if index in self._local else None
            if signs.get(index) != before:
                self._last[index] = (signs.get(index), now)
            elif runs is None and now - since > SILENCE:
                silent.append(index)
            silence = now - self._last[index][1]
            if runs is False:
                dead[index] = "its process is gone"
            elif runs is None and collective_failed and silence > SUSPICIOUS_SILENCE:
                dead[index] = (
                    f"a collective failed, and there is no sign of life for {silence:.0f} s"
                )
        return Findings(silent, dead)


def _machine() -> str:
    """An identifier that processes share if they see each other's process ids; empty where it is
    unknown."""
    if not hasattr(os, "pidfd_open"):
        return ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""

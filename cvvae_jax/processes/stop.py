"""Ending a run on request: the step is finished and a checkpoint saved first.

A request travels with the batch: every process marks its records, and the step returns the largest
mark among its metrics. So all processes learn of it at the same step, whichever got the signal.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import numpy as np
from jaxtyping import UInt8

from cvvae_jax.processes import signals

_GRACE = 3.0
"""Seconds in which the main thread may end by itself after a second Ctrl-C."""


class Stopped(Exception):
    """A run has ended on request."""

    def __init__(self, name: str, step: int, *, kept: int):
        """Say what ended the run.

        Args:
            name: of the signal.
            step: the last step that was done.
            kept: step of the newest checkpoint, 0 without one. It is the last step, unless updates
                were being skipped.
        """
        super().__init__(
            f"stopped by {name} after step {step}; the same command goes on from step {kept}"
        )
        self.exit_code = signals.exit_code(signal.Signals[name])
        """To be preempted is no failure; of other signals the code is the custom one."""


class StopSignals:
    """`with StopSignals() as stop:` notes SIGINT and SIGTERM, which this process got, in
    `stop.requested`, and tells the user at once that it has heard.

    A flag, because an exception out of a signal handler is lost where it happens to rise inside a
    callback from C++. Impatience is heard: from the second SIGINT on, KeyboardInterrupt is raised
    at once; where the main thread is in C++ and can't be interrupted, the process ends. Outside the
    main thread, where Python has no signals, nothing is ever requested.
    """

    def __init__(self):
        self.requested: str | None = None
        """Name of the first signal that came."""
        self._interrupts = 0
        self._told = 0
        self._raised = threading.Event()
        self._work = "the step at work is done"
        self._watch = contextlib.ExitStack()

    def __enter__(self) -> "StopSignals":
        """Replaces the handlers of `SIGNALS`."""
        self._watch.enter_context(signals.heard(self._hear, self._note))
        return self

    def __exit__(self, *_: object) -> None:
        """Puts the handlers back."""
        self._watch.close()

    @contextlib.contextmanager
    def after(self, work: str) -> Iterator[None]:
        """Meanwhile the user is told that the run stops `when WORK`."""
        before, self._work = self._work, work
        try:
            yield
        finally:
            self._work = before

    def marks(self, records: int) -> UInt8[np.ndarray, " records"]:
        """What this process's records carry: the signal's number, 0 without one."""
        number = signal.Signals[self.requested] if self.requested else 0
        return np.full(records, number, np.uint8)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.requested = self.requested or signal.Signals(number).name
        self._interrupts += number == signal.SIGINT
        if number == signal.SIGINT and self._interrupts > 1:
            self._raised.set()
            raise KeyboardInterrupt

    def _hear(self, number: int) -> None:
        """In a thread of its own, while the main one may be in C++."""
        interrupted = number == signal.SIGINT
        self._told += interrupted
        if self._told > 1:
            if not self._raised.wait(_GRACE):
                signals.say("stopped at once; the same command goes on from the newest checkpoint")
                os._exit(signals.exit_code(number))
        elif interrupted or self._told == 0:
            again = "again" if interrupted else "twice"
            name = signal.Signals(number).name
            signals.say(f"{name}: the run stops when {self._work}; Ctrl-C {again} stops it now")

"""Ending a run on request: the step is finished and a checkpoint saved first.

A request travels with the batch: every process marks its records, and the step returns the largest
mark among its metrics. So all processes learn of it at the same step, whichever got the signal.
"""

import signal
import threading
from types import FrameType

import numpy as np
from jaxtyping import UInt8

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What asks for an end: Ctrl-C and Weights & Biases' stop button; schedulers and `timeout`."""


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
        self.exit_code = 0 if name == "SIGTERM" else 128 + int(signal.Signals[name])
        """To be preempted is no failure; of other signals the code is the custom one."""


class StopSignals:
    """`with StopSignals() as stop:` notes SIGINT and SIGTERM, which this process got, in
    `stop.requested`.

    A flag, because an exception out of a signal handler is lost where it happens to rise inside a
    callback from C++. Impatience is heard: from the second SIGINT on, KeyboardInterrupt is raised
    at once. Outside the main thread, where Python has no signals, nothing is ever requested.
    """

    def __init__(self):
        self.requested: str | None = None
        """Name of the first signal that came."""
        self._interrupts = 0
        self._previous = {}

    def __enter__(self) -> "StopSignals":
        """Replaces the handlers of `SIGNALS`."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {n: signal.signal(n, self._note) for n in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Puts the handlers back."""
        for number, handler in self._previous.items():
            # None stands for a handler that was not set from Python, which can't be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def marks(self, records: int) -> UInt8[np.ndarray, " records"]:
        """What this process's records carry: the signal's number, 0 without one."""
        number = signal.Signals[self.requested] if self.requested else 0
        return np.full(records, number, np.uint8)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.requested = self.requested or signal.Signals(number).name
        self._interrupts += number == signal.SIGINT
        if number == signal.SIGINT and self._interrupts > 1:
            raise KeyboardInterrupt

"""What SIGINT and SIGTERM do to `train`: a run ends after its step, and before training begins the
process ends at once.

Training listens with `StopSignals`: the step at work is finished and a checkpoint saved. A request
travels with the batch: every process marks its records with the signal's number, and the step
returns the largest mark among its metrics. So all processes stop after the same step, whichever of
them got the signal. Before training begins, `ending_at_once` ends the process.

Python runs a signal's handler between two of its own instructions, so that a handler waits for
minutes while a program is compiled in C++. A pipe therefore wakes a thread, which tells the user
at once that the signal has come.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask for an end: Ctrl-C and the stop button of Weights & Biases send SIGINT;
schedulers and `timeout` send SIGTERM."""

_GRACE = 3.0
"""Seconds in which the main thread may end by itself after a second Ctrl-C."""


class Stopped(Exception):
    """A run has ended because a signal asked for it."""

    def __init__(self, name: str, step: int, *, kept: int):
        """Describes the end.

        Args:
            name: the signal's name.
            step: the last step that was done.
            kept: the step of the newest checkpoint, 0 where there is none. It is the last step
                unless updates were being skipped, or no step was done.
        """
        super().__init__(
            f"stopped by {name} after step {step}; the same command goes on from step {kept}"
        )
        self.exit_code = exit_code(signal.Signals[name])
        """The exit status of the process: see `exit_code`."""


class StopSignals:
    """`with StopSignals() as stop:` notes in `stop.requested` that SIGINT or SIGTERM has come, and
    tells the user at once when the run will stop.

    The first signal sets a flag rather than raising an exception, which would be lost where it
    happens to rise inside a callback from C++. The second SIGINT raises KeyboardInterrupt; where
    the main thread stays in C++ and cannot be interrupted, the process ends. Python handles signals
    in the main thread alone; in another thread nothing is ever requested.
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
        self._watch.enter_context(_handled(self._note, tell=self._tell))
        return self

    def __exit__(self, *_: object) -> None:
        """Restores the handlers."""
        self._watch.close()

    @contextlib.contextmanager
    def after(self, work: str) -> Iterator[None]:
        """A context in which the user is told that the run stops `when WORK`."""
        before, self._work = self._work, work
        try:
            yield
        finally:
            self._work = before

    @property
    def number(self) -> int:
        """The number of the requested signal, with which records are marked; 0 without one."""
        return int(signal.Signals[self.requested]) if self.requested else 0

    def _note(self, number: int, _: FrameType | None) -> None:
        """The signals' handler, which Python runs in the main thread."""
        self.requested = self.requested or signal.Signals(number).name
        self._interrupts += number == signal.SIGINT
        if number == signal.SIGINT and self._interrupts > 1:
            self._raised.set()
            raise KeyboardInterrupt

    def _tell(self, number: int) -> None:
        """Runs in a thread of its own, since the main thread may be in C++."""
        interrupted = number == signal.SIGINT
        self._told += interrupted
        if self._told > 1:
            if not self._raised.wait(_GRACE):
                _print("stopped at once; the same command goes on from the newest checkpoint")
                os._exit(exit_code(number))
        elif interrupted or self._told == 0:
            again = "again" if interrupted else "twice"
            name = signal.Signals(number).name
            _print(f"{name}: the run stops when {self._work}; Ctrl-C {again} stops it now")


def exit_code(number: int) -> int:
    """The exit status of a process that such a signal ends: 0 for SIGTERM, since being preempted is
    no failure, otherwise 128 + number, as shells have it."""
    return 0 if number == signal.SIGTERM else 128 + number


@contextlib.contextmanager
def ending_at_once(goes_on: str) -> Iterator[None]:
    """A context in which SIGINT and SIGTERM end the process at once, with `exit_code` and a
    sentence.

    Args:
        goes_on: the end of the sentence, which says what another start does.
    """

    def end(number: int) -> None:
        _print(f"stopped by {signal.Signals(number).name}; {goes_on}")
        os._exit(exit_code(number))

    with _handled(lambda *_: None, tell=end):
        yield


@contextlib.contextmanager
def _handled(handler: Callable[..., None], *, tell: Callable[[int], None]) -> Iterator[None]:
    """A context in which `SIGNALS` have a handler, and in which a thread calls `tell` with the
    signal's number as soon as one comes. Outside the main thread it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(receiving, tell), daemon=True)
    listener.start()
    try:
        yield
    finally:
        for number, earlier in before.items():
            # None stands for a handler that was not set from Python, which can't be restored.
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
        signal.set_wakeup_fd(wakeup)
        os.close(sending)


def _listen(receiving: int, tell: Callable[[int], None]) -> None:
    with open(receiving, "rb", buffering=0) as pipe:
        while numbers := pipe.read(64):
            for number in numbers:
                if number in SIGNALS:
                    tell(number)


def _print(text: str) -> None:
    """A message on stderr, from any thread, even while another one holds the lock of
    `sys.stderr`."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())

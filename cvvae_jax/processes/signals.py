"""SIGINT and SIGTERM, heard at once whatever the main thread is doing.

Python runs a signal's handler between two of its own instructions, so that a handler waits for
minutes while a program is compiled in C++. What is here is told by a thread, which a pipe wakes.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What asks for an end: Ctrl-C and Weights & Biases' stop button; schedulers and `timeout`."""


def exit_code(number: int) -> int:
    """That of a process which such a signal ends: to be preempted is no failure."""
    return 0 if number == signal.SIGTERM else 128 + number


def say(text: str) -> None:
    """To the user; from any thread, and whatever holds locks of `sys.stderr`."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())


@contextlib.contextmanager
def heard(hear: Callable[[int], None], handle: Callable[..., None]) -> Iterator[None]:
    """Meanwhile calls `hear` in a thread with the number of each of `SIGNALS`, at once, and
    `handle` as their handler; outside the main thread, where Python has no signals, neither."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(receiving, hear), daemon=True)
    listener.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python, which can't be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(wakeup)
        os.close(sending)


def _listen(receiving: int, hear: Callable[[int], None]) -> None:
    with open(receiving, "rb", buffering=0) as pipe:
        while numbers := pipe.read(64):
            for number in numbers:
                if number in SIGNALS:
                    hear(number)


@contextlib.contextmanager
def ending_at_once(goes_on: str) -> Iterator[None]:
    """Meanwhile one of `SIGNALS` ends the process at once, with its code and a sentence.

    Args:
        goes_on: the sentence's end, on what another start does.
    """

    def end(number: int) -> None:
        say(f"stopped by {signal.Signals(number).name}; {goes_on}")
        os._exit(exit_code(number))

    with heard(end, lambda *_: None):
        yield

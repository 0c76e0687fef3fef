"""Signals ask for an end, and are back to what they were afterwards."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from many_processes import ROOT, environment

from cvvae_jax.processes.stop import SIGNALS, Stopped, StopSignals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_is_noted_and_nothing_is_raised(number):
    with StopSignals() as stop:
        assert stop.requested is None
        send(number)
        assert stop.requested == signal.Signals(number).name


def test_second_interrupt_is_raised():
    with pytest.raises(KeyboardInterrupt), StopSignals() as stop:
        send(signal.SIGINT)
        assert stop.requested == "SIGINT"
        send(signal.SIGINT)


def test_first_signal_is_the_one_named_and_only_interrupts_are_counted():
    with StopSignals() as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            send(number)
        assert stop.requested == "SIGTERM"


def test_handlers_are_put_back_whatever_happens():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError), StopSignals():
        assert [signal.getsignal(number) for number in SIGNALS] != before
        raise ValueError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_other_threads_are_left_alone():
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def work():
        with StopSignals() as stop:
            seen.append((stop.requested, [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def test_number_is_that_of_the_signal():
    with StopSignals() as stop:
        assert stop.number == 0
        send(signal.SIGTERM)
        assert stop.number == 15


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 0)])
def test_preemption_is_no_failure(name, code):
    assert Stopped(name, 1, kept=1).exit_code == code


def test_stopped_says_how_to_go_on():
    stopped = Stopped("SIGTERM", 12, kept=12)
    sentence = "stopped by SIGTERM after step 12; the same command goes on from step 12"
    assert str(stopped) == sentence


# In C++ for minutes, as while a program is compiled: no handler of Python's runs meanwhile.
BUSY = """
import hashlib
from cvvae_jax.processes.stop import StopSignals

with StopSignals() as stop, stop.after("the program is compiled"):
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 500_000_000)
"""
AT_ONCE = 30.0
"""Seconds: far below the minutes of `BUSY`, and enough for a thread on a busy machine."""


def ended(process: subprocess.Popen, *, seconds: float) -> bool:
    """Whether it has, or does within some time."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


@pytest.mark.parametrize(
    ("sent", "hint"), [(signal.SIGTERM, "Ctrl-C twice"), (signal.SIGINT, "Ctrl-C again")]
)
def test_stop_is_acknowledged_at_once_during_a_compile_and_impatience_ends_it(sent, hint):
    command = [sys.executable, "-c", BUSY]
    busy = subprocess.Popen(
        command, stdout=-1, stderr=-1, text=True, env=environment(devices=1), bufsize=1
    )
    try:
        assert busy.stdout.readline() == "busy\n"
        busy.send_signal(sent)
        assert select.select([busy.stderr], [], [], AT_ONCE)[0], "nothing is said at once"
        heard = busy.stderr.readline()
        name = signal.Signals(sent).name
        assert heard == f"{name}: the run stops when the program is compiled; {hint} stops it now\n"
        assert busy.poll() is None
        busy.send_signal(signal.SIGTERM)  # schedulers repeat it
        if sent == signal.SIGTERM:
            busy.send_signal(signal.SIGINT)
        while not ended(busy, seconds=0.2):  # signals that come at once are one
            busy.send_signal(signal.SIGINT)
        assert busy.returncode == 130
        assert "stopped at once" in busy.stderr.read()
    finally:
        busy.kill()
        busy.wait()
        busy.stdout.close()
        busy.stderr.close()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal_while_the_command_starts_ends_it_with_the_documented_code(tmp_path, sent, code):
    """While jax is being imported, of which the first library tells."""
    command = [
        sys.executable,
        "train.py",
        "configs/quickstart.py",
        "--workdir",
        str(tmp_path / "a"),
    ]
    start = subprocess.Popen(command, cwd=ROOT, stderr=-1, text=True, env=environment(devices=1))
    try:
        while "jaxlib" not in Path(f"/proc/{start.pid}/maps").read_text():
            assert start.poll() is None
            time.sleep(0.01)
        start.send_signal(sent)
        _, said = start.communicate(timeout=300)
    finally:
        start.kill()
        start.wait()
    name = signal.Signals(sent).name
    assert (start.returncode, said) == (
        code,
        f"stopped by {name}; the same command goes on from the newest checkpoint, if any.\n",
    )
    assert not (tmp_path / "a").exists()

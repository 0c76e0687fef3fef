"""Signals ask for an end, and are back to what they were afterwards."""

import os
import signal
import threading

import pytest

from cvvae_jax.training.stop import SIGNALS, Stopped, StopSignals


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


def test_records_carry_the_signal():
    with StopSignals() as stop:
        assert stop.marks(3).tolist() == [0, 0, 0]
        send(signal.SIGTERM)
        assert stop.marks(3).tolist() == [15, 15, 15] and stop.marks(3).dtype == "uint8"


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 0)])
def test_preemption_is_no_failure(name, code):
    assert Stopped(name, 1, kept=1).exit_code == code


def test_stopped_says_how_to_go_on():
    stopped = Stopped("SIGTERM", 12, kept=12)
    sentence = "stopped by SIGTERM after step 12; the same command goes on from step 12"
    assert str(stopped) == sentence

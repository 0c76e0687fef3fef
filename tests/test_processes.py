"""What processes read of each other, on a board that stands in for jax's service; whole runs are in
training/test_together.py and training/test_killed_processes.py."""

import os
import subprocess
import sys
import time
import types
from unittest import mock

import jax
import pytest

from cvvae_jax.errors import UserError
from cvvae_jax.processes import dead_processes, group, rendezvous

NAMES = (rendezvous.COORDINATOR, rendezvous.COUNT, rendezvous.INDEX)


class Board:
    """Stands in for jax's client."""

    def __init__(self):
        self._entries: dict[str, str] = {}

    def key_value_set(self, key: str, text: str, allow_overwrite: bool) -> None:
        if key in self._entries and not allow_overwrite:
            raise jax.errors.JaxRuntimeError(f"{key} is there")
        self._entries[key] = text

    def key_value_dir_get(self, prefix: str) -> list[tuple[str, str]]:
        return [(key, text) for key, text in self._entries.items() if key.startswith(prefix)]

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        return self._entries[key]


@pytest.fixture
def both(monkeypatch) -> list[group.Processes]:
    """Two processes of a run, which look at the board when they are told to."""
    state = types.SimpleNamespace(
        client=Board(), coordinator_address="localhost:1", process_id=0, num_processes=2
    )
    monkeypatch.setattr(group.jax_distributed, "global_state", state)
    monkeypatch.setattr(group, "_before_aborting", lambda explain: None)
    monkeypatch.setattr(group, "_PERIOD", 0.0)
    monkeypatch.setattr(group.Processes, "_end_if_stuck", lambda self: None)
    monkeypatch.setattr(group.Processes, "_watch", lambda self: None)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)
    made = []
    for state.process_id in range(2):
        made.append(group.Processes())
    monkeypatch.setattr(os, "_exit", ended)
    return made


def ended(code: int) -> None:
    raise SystemExit(code)


def code_of(process: group.Processes) -> int | None:
    """With what a process ends when it looks at the board."""
    try:
        process.look()
    except SystemExit as end:
        return end.code
    return None


def test_processes_that_give_signs_of_life_leave_each_other_alone(both, monkeypatch):
    monkeypatch.setattr(dead_processes, "SILENCE", 0.0)
    for _ in range(3):
        time.sleep(0.01)
        assert [code_of(process) for process in reversed(both)] == [None, None]


@pytest.fixture
def apart(both) -> list[group.Processes]:
    """Two processes on two machines."""
    put = both[1]._client.key_value_set
    put("cvvae_jax/place/1", f"{os.getpid()} another machine", allow_overwrite=True)
    return both


def test_silent_process_of_this_machine_that_runs_is_left_alone(both, monkeypatch):
    """A process that compiles is silent for long where other programs have all processors."""
    for process in reversed(both):
        process.look()
    for limit in ("SILENCE", "SUSPICIOUS_SILENCE"):
        monkeypatch.setattr(dead_processes, limit, 0.0)
    both[0]._put("suspicion", "a collective failed")
    time.sleep(0.01)
    assert [code_of(process) for process in both] == [None, None]


def test_process_that_is_gone_is_dead_at_once_and_named_by_all(both, capsys):
    """The parent of the process hasn't asked for the exit code yet."""
    gone = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    place = both[1]._entries("place")[1].replace(str(os.getpid()), str(gone.pid))
    both[1]._client.key_value_set("cvvae_jax/place/1", place, allow_overwrite=True)
    while os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT) is None:
        pass
    assert code_of(both[0]) == group.DIED
    gone.communicate()
    said = capsys.readouterr().err
    assert said.startswith(f"process 0 of 2 on {both[0].name.split()[-1]}: error: process 1 of 2")
    assert "has died: its process is gone. All processes of the run end; the same com" in said
    assert code_of(both[1]) == group.DIED


def test_silent_process_of_another_machine_is_named_once_jax_finds_that_it_is_dead(
    apart, monkeypatch, capsys
):
    for process in reversed(apart):
        process.look()
    monkeypatch.setattr(dead_processes, "SILENCE", 0.0)
    time.sleep(0.01)
    assert code_of(apart[0]) is None
    with pytest.raises(SystemExit) as end:
        apart[0]._explain_abort()
    assert end.value.code == group.DIED
    said = capsys.readouterr().err
    assert "error: process 1 of 2 on " in said
    assert "died, or can't be reached: there was no sign of life. All" in said


def test_silent_process_of_another_machine_is_dead_once_a_collective_has_failed(apart, monkeypatch):
    monkeypatch.setattr(dead_processes, "SUSPICIOUS_SILENCE", 0.0)
    for process in reversed(apart):
        process.look()
    time.sleep(0.01)
    assert code_of(apart[0]) is None
    error = UserError("no good.")
    apart[0].await_verdict(error)
    assert code_of(apart[0]) is None
    error.__cause__ = jax.errors.JaxRuntimeError("Gloo: connection closed by peer")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    apart[0].await_verdict(error)
    assert code_of(apart[0]) == group.DIED


def test_a_process_alone_watches_nobody_and_waits_for_nobody(both, monkeypatch):
    """Two look at each other, each with a thread and with one that ends it if it is stuck."""
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waits"))
    for count, threads in ((1, 0), (2, 2)):
        monkeypatch.setattr(group, "threading", mock.MagicMock())
        monkeypatch.setattr(group.jax_distributed.global_state, "num_processes", count)
        process = group.Processes()
        assert group.threading.Thread.call_count == threads
        if count == 1:
            process.barrier("the end")
            process.await_verdict(jax.errors.JaxRuntimeError("of a collective"))


def test_interrupt_cuts_the_wait_for_another_process_short(both, monkeypatch):
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    both[0].await_verdict(jax.errors.JaxRuntimeError("Gloo: connection closed by peer"))


ALONE = """
import ctypes, sys, threading, time, types
from cvvae_jax.processes import group

client = types.SimpleNamespace(
    key_value_set=lambda *_, **__: None, key_value_dir_get=lambda _: []
)
group.jax_distributed.global_state = types.SimpleNamespace(
    client=client, coordinator_address="127.0.0.1:1", process_id=1, num_processes=2
)
group._STUCK, group._PERIOD = 5.0, 0.1
process = group.Processes()
time.sleep(7)  # longer than a stuck process may
{end}
time.sleep(200)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("threading.Thread(target=ctypes.CDLL(None).abort).start()", group.DIED, "0 has died"),
        ("print('stuck', flush=True); ctypes.PyDLL(None).sleep(200)", 1, "Timeout (0:00:05)!"),
    ],
    ids=["abort", "pythons_lock_held"],
)
def test_process_that_can_not_go_on_is_ended(end, code, said):
    """`PyDLL` keeps Python's lock, which what jax's abort calls would wait for."""
    command = [sys.executable, "-c", ALONE.replace("{end}", end)]
    start = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == code and said in ended.stderr, ended.stderr
    assert ("stuck" in ended.stdout) == (code == 1)
    assert time.monotonic() - start < 200


@pytest.mark.parametrize("status", [1, 2, 130])
def test_what_ends_one_process_ends_the_other_with_its_code(both, capsys, status):
    assert both[1].end(status, "error: no good.\nTraceback", together=False) == status
    assert code_of(both[0]) == status
    first, _, second = capsys.readouterr().err.splitlines()
    assert first.startswith("process 1 of 2 on ") and first.endswith(": error: no good.")
    assert "process 0 of 2" in second and "process 1 of 2" in second and "no good. All" in second


def test_process_that_goes_on_after_another_one_has_reached_its_end_is_ended(both, monkeypatch):
    assert both[1].end(0, "", together=True) == 0
    assert code_of(both[0]) is None
    monkeypatch.setattr(group, "_LATE", 0.0)
    time.sleep(0.01)
    assert code_of(both[0]) == 1


def test_process_may_take_longer_to_close_its_logs_after_a_stop_on_request(both, monkeypatch):
    monkeypatch.setattr(group, "_LATE", 0.0)
    assert both[1].end(0, "stopped by SIGTERM after step 2", together=True) == 0
    assert code_of(both[0]) is None
    time.sleep(0.01)
    assert code_of(both[0]) is None
    monkeypatch.setattr(group, "_CLOSING", 0.0)
    assert code_of(both[0]) == 1


def test_processes_that_end_together_say_so_once(both, capsys):
    for process in both:
        assert process.end(0, "stopped.", together=True) == 0
    assert [code_of(process) for process in both] == [None, None]
    assert capsys.readouterr().err == f"{both[0].name}: stopped.\n"


def test_processes_of_other_settings_are_refused(both):
    both[0].check_same('{\n  "seed": 0,\n  "steps": 5\n}')
    both[1].check_same('{\n  "seed": 0,\n  "steps": 5\n}')
    with pytest.raises(UserError, match='same settings; process 0 has "seed": 0, and this one'):
        both[1].check_same('{\n  "seed": 1,\n  "steps": 5\n}')


def test_variables_name_a_process_where_no_cluster_does():
    found = rendezvous.from_environment(dict(zip(NAMES, ("host:1", "4", "3"), strict=True)))
    assert (found.address, found.count, found.index) == ("host:1", 4, 3)
    assert (
        rendezvous.from_environment({rendezvous.COORDINATOR: "host:1"}) is None
    )  # jax detects the rest


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((None, "2", "0"), "JAX_COORDINATOR_ADDRESS is not set"),
        ((None, "2", None), "JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID are not set"),
        (("host:1", "2", "2"), "from 0 to below JAX_NUM_PROCESSES, not 2 of 2"),
        (("host:1", "two", "0"), "not 0 of two"),
        (("host", "2", "0"), "must be HOST:PORT, not host"),
    ],
    ids=["address", "two", "range", "number", "port"],
)
def test_wrong_variables_are_named(values, reason):
    given = {name: value for name, value in zip(NAMES, values, strict=True) if value is not None}
    with pytest.raises(UserError, match=reason):
        rendezvous.from_environment(given)

"""The door of a run: its own processes come in, once, and no others."""

import concurrent.futures
import contextlib
import dataclasses
import socket
import threading
import time

import pytest
from many_processes import free_port

from cvvae_jax import door
from cvvae_jax.config import ConfigError
from cvvae_jax.door import Guest


@pytest.fixture
def guests(monkeypatch) -> list[Guest]:
    """Three processes of a run."""
    monkeypatch.setattr(door, "_ANSWER", 2.0)
    port = free_port()
    return [Guest("127.0.0.1", port, 3, index, "secret") for index in range(3)]


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool


def wait_for_door(guest: Guest) -> None:
    end = time.monotonic() + 100
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((guest.host, guest.port)):
            return
        time.sleep(0.01)


@pytest.fixture
def someone_came(monkeypatch) -> threading.Event:
    """Set once process 0 has let another one in."""
    event, receive = threading.Event(), door._receive

    def watched(connection, guest, inside):
        receive(connection, guest, inside)
        if inside:
            event.set()

    monkeypatch.setattr(door, "_receive", watched)
    return event


@pytest.fixture
def someone_left(monkeypatch) -> threading.Event:
    """Set once process 0 has noticed that one has gone that it had let in."""
    event, has_left = threading.Event(), door._has_left

    def watched(connection):
        found = has_left(connection)
        if found:
            event.set()
        return found

    monkeypatch.setattr(door, "_has_left", watched)
    return event


@pytest.mark.parametrize("first", [0, 1])
def test_processes_of_a_run_meet_whoever_comes_first(guests, pool, first):
    meetings = []
    for guest in guests[first:] + guests[:first]:
        meetings.append(pool.submit(door.meet, guest, seconds=100.0))
        time.sleep(0.1)
    assert [meeting.result(timeout=100) for meeting in meetings] == [None] * 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"token": "another"}, r"doesn't let this process in \(of another run\): all processes of"),
        ({"count": 2}, r"\(process 0 has 3 processes\)"),
        ({"index": 2}, r"\(process 2 is there already\)"),
    ],
    ids=["token", "count", "twice"],
)
def test_strangers_stay_out_and_the_run_is_not_disturbed(
    guests, pool, someone_came, change, reason
):
    """Nor is it by connections that say nothing, or nonsense."""
    zero, last = (pool.submit(door.meet, guests[i], seconds=100.0) for i in (0, 2))
    wait_for_door(guests[0])
    silent = socket.create_connection((guests[0].host, guests[0].port))
    rude = socket.create_connection((guests[0].host, guests[0].port))
    rude.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" * 20)
    for connection in (silent, rude):
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1000):  # until process 0 is done with it
                pass
    assert someone_came.wait(100)
    with pytest.raises(ConfigError, match=reason):
        door.meet(dataclasses.replace(guests[1], **change), seconds=100.0)
    assert not zero.done() and not last.done()
    door.meet(guests[1], seconds=100.0)
    assert zero.result(timeout=100) is last.result(timeout=100) is None
    for connection in (silent, rude):
        connection.close()


def test_process_that_has_died_at_the_door_can_come_again(guests, pool, someone_left):
    zero = pool.submit(door.meet, guests[0], seconds=100.0)
    wait_for_door(guests[0])
    with socket.create_connection((guests[0].host, guests[0].port)) as died:
        nonce = door._line(died).removeprefix(b"cvvae_jax ").decode()
        proof = door._proof("secret", nonce, b"1", b"3")
        died.sendall(proof + b" 1 3\n")
        assert door._line(died) == b"welcome"
    assert someone_left.wait(100)
    others = [pool.submit(door.meet, guest, seconds=100.0) for guest in guests[1:]]
    assert [meeting.result(timeout=100) for meeting in (zero, *others)] == [None] * 3


@pytest.mark.parametrize("index", [0, 1])
def test_port_of_another_program_is_said(guests, monkeypatch, index):
    """It listens as gRPC does, which lets others of its kind share the port."""
    for limit in ("_TAKEN", "_STRANGE"):
        monkeypatch.setattr(door, limit, 0.0)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((guests[0].host, guests[0].port))
        other.listen()
        said = ("can't listen at .* already in use", "is no process 0 that waits for this one")
        with pytest.raises(ConfigError, match=said[index]):
            door.meet(guests[index], seconds=100.0)


@pytest.mark.parametrize("index", [0, 1])
def test_process_whose_others_do_not_come_is_late(guests, index):
    with pytest.raises(door.Late):
        door.meet(guests[index], seconds=1.0)


def test_process_alone_meets_nobody(guests):
    door.meet(dataclasses.replace(guests[0], count=1), seconds=0.0)


@pytest.mark.parametrize(
    ("host", "bound"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("[::1]", "[::1]"), ("node7", None)],
)
def test_run_of_one_machine_listens_there_alone(host, bound):
    address = Guest(host, 1, 2, 0, "").bind_address
    assert address == f"{bound}:1" if bound else address in ("[::]:1", "0.0.0.0:1")

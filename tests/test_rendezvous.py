"""The processes of a run find each other, each one once, and nobody else is accepted."""

import concurrent.futures
import contextlib
import dataclasses
import socket
import threading
import time

import pytest
from many_processes import free_port

from cvvae_jax.errors import UserError
from cvvae_jax.processes import rendezvous
from cvvae_jax.processes.rendezvous import Participant


@pytest.fixture
def participants(monkeypatch) -> list[Participant]:
    """Three processes of a run."""
    monkeypatch.setattr(rendezvous, "_ANSWER", 2.0)
    port = free_port()
    return [Participant("127.0.0.1", port, 3, index, "secret") for index in range(3)]


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool


def wait_for_listener(participant: Participant) -> None:
    end = time.monotonic() + 100
    while time.monotonic() < end:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((participant.host, participant.port)),
        ):
            return
        time.sleep(0.01)


@pytest.fixture
def someone_came(monkeypatch) -> threading.Event:
    """Set once process 0 has let another one in."""
    event, receive = threading.Event(), rendezvous._accept_or_refuse

    def watched(connection, participant, inside):
        receive(connection, participant, inside)
        if inside:
            event.set()

    monkeypatch.setattr(rendezvous, "_accept_or_refuse", watched)
    return event


@pytest.fixture
def someone_left(monkeypatch) -> threading.Event:
    """Set once process 0 has noticed that one has gone that it had let in."""
    event, has_left = threading.Event(), rendezvous._has_left

    def watched(connection):
        found = has_left(connection)
        if found:
            event.set()
        return found

    monkeypatch.setattr(rendezvous, "_has_left", watched)
    return event


@pytest.mark.parametrize("first", [0, 1])
def test_processes_of_a_run_meet_whoever_comes_first(participants, pool, first):
    meetings = []
    for participant in participants[first:] + participants[:first]:
        meetings.append(pool.submit(rendezvous.meet, participant, seconds=100.0))
        time.sleep(0.1)
    assert [meeting.result(timeout=100) for meeting in meetings] == [None] * 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"token": "another"}, r"refuses this process \(of another run\): all processes of"),
        ({"count": 2}, r"\(process 0 has 3 processes\)"),
        ({"index": 2}, r"\(process 2 is there already\)"),
    ],
    ids=["token", "count", "twice"],
)
def test_strangers_stay_out_and_the_run_is_not_disturbed(
    participants, pool, someone_came, change, reason
):
    """Connections that say nothing, or nonsense, don't disturb the run either."""
    zero, last = (pool.submit(rendezvous.meet, participants[i], seconds=100.0) for i in (0, 2))
    wait_for_listener(participants[0])
    silent = socket.create_connection((participants[0].host, participants[0].port))
    rude = socket.create_connection((participants[0].host, participants[0].port))
    rude.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" * 20)
    for connection in (silent, rude):
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1000):  # until process 0 is done with it
                pass
    assert someone_came.wait(100)
    with pytest.raises(UserError, match=reason):
        rendezvous.meet(dataclasses.replace(participants[1], **change), seconds=100.0)
    assert not zero.done() and not last.done()
    rendezvous.meet(participants[1], seconds=100.0)
    assert zero.result(timeout=100) is last.result(timeout=100) is None
    for connection in (silent, rude):
        connection.close()


def test_process_that_has_died_while_it_waits_can_come_again(participants, pool, someone_left):
    zero = pool.submit(rendezvous.meet, participants[0], seconds=100.0)
    wait_for_listener(participants[0])
    with socket.create_connection((participants[0].host, participants[0].port)) as died:
        nonce = rendezvous._read_line(died).removeprefix(b"cvvae_jax ").decode()
        proof = rendezvous._proof("secret", nonce, b"1", b"3")
        died.sendall(proof + b" 1 3\n")
        assert rendezvous._read_line(died) == b"welcome"
    assert someone_left.wait(100)
    others = [
        pool.submit(rendezvous.meet, participant, seconds=100.0) for participant in participants[1:]
    ]
    assert [meeting.result(timeout=100) for meeting in (zero, *others)] == [None] * 3


@pytest.mark.parametrize("index", [0, 1])
def test_port_of_another_program_is_said(participants, monkeypatch, index):
    """It listens as gRPC does, which lets others of its kind share the port."""
    for limit in ("_TAKEN", "_STRANGE"):
        monkeypatch.setattr(rendezvous, limit, 0.0)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((participants[0].host, participants[0].port))
        other.listen()
        said = ("can't listen at .* already in use", "is no process 0 that waits for this one")
        with pytest.raises(UserError, match=said[index]):
            rendezvous.meet(participants[index], seconds=100.0)


@pytest.mark.parametrize("index", [0, 1])
def test_process_whose_others_do_not_come_is_late(participants, index):
    with pytest.raises(rendezvous.RendezvousTimeout):
        rendezvous.meet(participants[index], seconds=1.0)


def test_process_alone_meets_nobody(participants):
    rendezvous.meet(dataclasses.replace(participants[0], count=1), seconds=0.0)


@pytest.mark.parametrize(
    ("host", "bound"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("[::1]", "[::1]"), ("node7", None)],
)
def test_run_of_one_machine_listens_there_alone(host, bound):
    address = Participant(host, 1, 2, 0, "").bind_address
    assert address == f"{bound}:1" if bound else address in ("[::]:1", "0.0.0.0:1")

"""A rendezvous of the processes of one run, for runs whose processes environment variables name.

jax's coordination service shares its port with any program (SO_REUSEPORT), accepts every process
that connects, and ends a run when the same process connects twice. Therefore the processes of a
run meet here before any of them connects to the service. Process 0 listens on the same port. Every
other process proves that it knows the run's token, by an HMAC of a number that process 0 draws.
When all processes are connected, process 0 closes the port, and the service opens on it.
"""

import contextlib
import dataclasses
import hmac
import os
import secrets
import socket
import time
from collections.abc import Mapping
from typing import Any

from cvvae_jax.errors import UserError

COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""Environment variables that name a process where jax detects no cluster."""
TOKEN = "CVVAE_RUN_TOKEN"
"""Environment variable whose text is the same in all processes of a run and in no other run."""

_TAKEN = 20.0
"""Seconds to wait for the port, which a start shortly before may still hold."""
_STRANGE = 30.0
"""Seconds to wait while another program answers on the port, for the same reason."""
_ANSWER = 5.0
"""Seconds to wait for the next line from the other side of a connection."""
_GREETING = b"cvvae_jax "


class RendezvousTimeout(Exception):
    """Not all processes have connected in time."""


@dataclasses.dataclass(frozen=True)
class Participant:
    """A process of a run, as environment variables describe it."""

    host: str
    port: int
    count: int
    index: int
    token: str = dataclasses.field(repr=False)

    @property
    def address(self) -> str:
        """HOST:PORT of process 0."""
        return f"{self.host}:{self.port}"

    @property
    def bind_address(self) -> str:
        """HOST:PORT on which process 0 listens: all network addresses, or only this machine's own
        where the host is the local one."""
        if self.host.strip("[]") in ("localhost", "::1") or self.host.startswith("127."):
            return self.address
        return f"[::]:{self.port}" if socket.has_dualstack_ipv6() else f"0.0.0.0:{self.port}"

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of `jax.distributed.initialize`."""
        return {
            "coordinator_address": self.address,
            "num_processes": self.count,
            "process_id": self.index,
            "cluster_detection_method": "deactivate",
            "coordinator_bind_address": self.bind_address,
        }


def from_environment(environment: Mapping[str, str]) -> Participant | None:
    """This process as the variables describe it; None where jax has to detect the cluster.

    Raises:
        UserError: a variable is missing or wrong.
    """
    if COUNT not in environment and INDEX not in environment:
        return None
    missing = [name for name in (COORDINATOR, COUNT, INDEX) if not environment.get(name)]
    if missing:
        raise UserError(
            f"--distributed needs {COORDINATOR}, {COUNT} and {INDEX} together; "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set."
        )
    address, count, index = (environment[name] for name in (COORDINATOR, COUNT, INDEX))
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(
            f"{INDEX} must be a number from 0 to below {COUNT}, not {index} of {count}."
        )
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise UserError(f"{COORDINATOR} must be HOST:PORT, not {address}.")
    return Participant(host, int(port), int(count), int(index), environment.get(TOKEN, ""))


def meet(own: Participant, *, seconds: float) -> None:
    """Waits until all processes of the run have connected.

    Raises:
        UserError: the port is taken, or the program that listens there is not process 0 of this
            run.
        RendezvousTimeout: a process has not connected within `seconds`.
    """
    end = time.monotonic() + seconds
    if own.count == 1:
        return
    if own.index == 0:
        _await_others(own, end)
    else:
        _connect_until_all_are_there(own, end)


def _await_others(own: Participant, end: float) -> None:
    """Process 0's part: accepts the other processes of the run, and nobody else."""
    accepted: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(own))
        listener.settimeout(0.5)
        while len(accepted) < own.count - 1:
            for index in [i for i, connection in accepted.items() if _has_left(connection)]:
                accepted.pop(index).close()
            if time.monotonic() > end:
                raise RendezvousTimeout
            with contextlib.suppress(OSError):
                connection = stack.enter_context(listener.accept()[0])
                _accept_or_refuse(connection, own, accepted)
        for connection in accepted.values():
            with contextlib.suppress(OSError):
                connection.sendall(b"all are there\n")


def _listen(own: Participant) -> socket.socket:
    host, _, port = own.bind_address.rpartition(":")
    host, end = host.strip("[]"), time.monotonic() + _TAKEN
    while True:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            return socket.create_server(
                (host, int(port)), family=family, dualstack_ipv6=host == "::", backlog=128
            )
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"process 0 can't listen at {own.address} ({error.strerror}): if another run "
                    f"listens there, name another port by {COORDINATOR}."
                ) from error
        time.sleep(0.5)


def _accept_or_refuse(
    connection: socket.socket, own: Participant, accepted: dict[int, socket.socket]
) -> None:
    """Adds a new connection to `accepted`, or tells the other side why it is refused."""
    connection.settimeout(_ANSWER)
    nonce = secrets.token_hex(16)
    connection.sendall(_GREETING + f"{nonce}\n".encode())
    proof, index, count = (_read_line(connection) + b"  ").split(b" ")[:3]
    if not hmac.compare_digest(proof, _proof(own.token, nonce, index, count)):
        answer = b"of another run"
    elif int(count) != own.count or not 0 < int(index) < own.count:
        answer = f"process 0 has {own.count} processes".encode()
    elif int(index) in accepted:
        answer = f"process {int(index)} is there already".encode()
    else:
        accepted[int(index)] = connection
        answer = b"welcome"
    connection.sendall(answer + b"\n")
    if answer != b"welcome":
        connection.close()


def _connect_until_all_are_there(own: Participant, end: float) -> None:
    """The part of every process but process 0."""
    strange_since = None
    address = (own.host.strip("[]"), own.port)
    while time.monotonic() < end:
        try:
            with socket.create_connection(address, _ANSWER) as connection:
                if _introduce(connection, own, end):
                    return
                strange_since = strange_since or time.monotonic()
        except OSError:
            strange_since = None  # nobody listens yet
        if strange_since is not None and time.monotonic() - strange_since > _STRANGE:
            raise UserError(
                f"the program that listens at {own.address} is no process 0 that waits for this "
                f"one: if it is another run, name another port by {COORDINATOR}."
            )
        time.sleep(0.2)
    raise RendezvousTimeout


def _introduce(connection: socket.socket, own: Participant, end: float) -> bool:
    """Proves to process 0 that this process is of its run, and waits for the others.

    Returns:
        True when all processes are connected; False where another program has answered.

    Raises:
        UserError: process 0 refuses this process.
        OSError: process 0 has left.
    """
    greeting = _read_line(connection)
    if not greeting.startswith(_GREETING):
        return False
    nonce = greeting.removeprefix(_GREETING).decode(errors="replace")
    index, count = str(own.index).encode(), str(own.count).encode()
    proof = _proof(own.token, nonce, index, count)
    connection.sendall(b" ".join([proof, index, count]) + b"\n")
    answer = _read_line(connection)
    if not answer:
        raise ConnectionError("process 0 has left")
    if answer != b"welcome":
        raise UserError(
            f"process 0 at {own.address} refuses this process ({answer.decode()}): all processes "
            f"of a run, and no others, need the same {COORDINATOR}, {COUNT} and {TOKEN}."
        )
    connection.settimeout(max(1.0, end - time.monotonic()))
    if not _read_line(connection):
        raise ConnectionError("process 0 has left")
    return True


def _proof(token: str, nonce: str, index: bytes, count: bytes) -> bytes:
    message = b" ".join([nonce.encode(), index, count])
    return hmac.new(os.fsencode(token), message, "sha256").hexdigest().encode()


def _read_line(connection: socket.socket) -> bytes:
    """The next line from the other side, without its end of line; empty where the other side has
    left, is silent for too long, or sends more than 200 bytes."""
    line = b""
    with contextlib.suppress(TimeoutError):
        while len(line) < 200 and not line.endswith(b"\n"):
            byte = connection.recv(1)
            if not byte:
                return b""
            line += byte
    return line[:-1] if line.endswith(b"\n") else b""


def _has_left(connection: socket.socket) -> bool:
    """Whether a process that was accepted has closed its connection."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        with contextlib.suppress(OSError):
            connection.settimeout(_ANSWER)

"""Where processes that are named by hand come together: the door of a run, which process 0 keeps.

jax's coordination service listens with SO_REUSEPORT, takes whoever comes, and ends a run when a
process comes twice. So nobody speaks to it before all processes of the run have met here, on the
same port: each proves that it knows the run's token, by an HMAC of a number that process 0 draws.
When all are there the door is closed, and the service opens.
"""

import contextlib
import dataclasses
import hmac
import os
import secrets
import socket
import time
from collections.abc import Mapping

from cvvae_jax.errors import UserError

COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""Environment variables that name a process where no cluster is detected."""
TOKEN = "CVVAE_RUN_TOKEN"
"""Environment variable with the same text for all processes of a run, and for no other run."""

_TAKEN = 20.0
"""Seconds for which a port may be taken still, by what is left of a start before this one."""
_STRANGE = 30.0
"""Seconds for which something else may answer there, for the same reason."""
_ANSWER = 5.0
"""Seconds that the other side of a connection has for its next line."""
_GREETING = b"cvvae_jax "


class RendezvousTimeout(Exception):
    """Not all processes have come in time."""


@dataclasses.dataclass(frozen=True)
class Participant:
    """A process by the variables of its environment."""

    host: str
    port: int
    count: int
    index: int
    token: str = dataclasses.field(repr=False)

    @property
    def address(self) -> str:
        """Of process 0."""
        return f"{self.host}:{self.port}"

    @property
    def bind_address(self) -> str:
        """Where process 0 listens: on all addresses only if others are to reach it from other
        machines."""
        if self.host.strip("[]") in ("localhost", "::1") or self.host.startswith("127."):
            return self.address
        return f"[::]:{self.port}" if socket.has_dualstack_ipv6() else f"0.0.0.0:{self.port}"


def from_environment(environment: Mapping[str, str]) -> Participant | None:
    """This process, from the variables; None where jax is to detect it.

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


def meet(participant: Participant, *, seconds: float) -> None:
    """Waits until all processes of the run are there.

    Raises:
        UserError: the port is taken, or what listens there is no process 0 of this run.
        RendezvousTimeout: not all have come in time.
    """
    end = time.monotonic() + seconds
    if participant.count == 1:
        return
    if participant.index == 0:
        _keep(participant, end)
    else:
        _knock_until_open(participant, end)


def _keep(participant: Participant, end: float) -> None:
    """Process 0: lets the others in, and none else."""
    inside: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        door = stack.enter_context(_listen(participant))
        door.settimeout(0.5)
        while len(inside) < participant.count - 1:
            for index in [i for i, connection in inside.items() if _has_left(connection)]:
                inside.pop(index).close()
            if time.monotonic() > end:
                raise RendezvousTimeout
            with contextlib.suppress(OSError):
                connection = stack.enter_context(door.accept()[0])
                _receive(connection, participant, inside)
        for connection in inside.values():
            with contextlib.suppress(OSError):
                connection.sendall(b"all are there\n")


def _listen(participant: Participant) -> socket.socket:
    host, _, port = participant.bind_address.rpartition(":")
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
                    f"process 0 can't listen at {participant.address} ({error.strerror}): if another run "
                    f"does, name another port by {COORDINATOR}."
                ) from error
        time.sleep(0.5)


def _receive(
    connection: socket.socket, participant: Participant, inside: dict[int, socket.socket]
) -> None:
    """Greets one that has come, and lets it in or says why not."""
    connection.settimeout(_ANSWER)
    nonce = secrets.token_hex(16)
    connection.sendall(_GREETING + f"{nonce}\n".encode())
    given, index, count = (_line(connection) + b"  ").split(b" ")[:3]
    known = hmac.compare_digest(given, _proof(participant.token, nonce, index, count))
    if not known:
        answer = b"of another run"
    elif int(count) != participant.count or not 0 < int(index) < participant.count:
        answer = f"process 0 has {participant.count} processes".encode()
    elif int(index) in inside:
        answer = f"process {int(index)} is there already".encode()
    else:
        inside[int(index)] = connection
        answer = b"welcome"
    connection.sendall(answer + b"\n")
    if answer != b"welcome":
        connection.close()


def _knock_until_open(participant: Participant, end: float) -> None:
    """Another process: until all are there."""
    strange_since = None
    while time.monotonic() < end:
        try:
            with socket.create_connection(
                (participant.host.strip("[]"), participant.port), _ANSWER
            ) as door:
                if _knock(door, participant, end):
                    return
                strange_since = strange_since or time.monotonic()
        except (ConnectionError, TimeoutError, socket.gaierror, OSError):
            strange_since = None  # nobody is there yet
        if strange_since is not None and time.monotonic() - strange_since > _STRANGE:
            raise UserError(
                f"what listens at {participant.address} is no process 0 that waits for this one: if it "
                f"is another run, name another port by {COORDINATOR}."
            )
        time.sleep(0.2)
    raise RendezvousTimeout


def _knock(door: socket.socket, participant: Participant, end: float) -> bool:
    """Whether all are there; False where nobody of this kind has answered.

    Raises:
        UserError: process 0 says that this one is none of its own.
        OSError: it has gone.
    """
    greeting = _line(door)
    if not greeting.startswith(_GREETING):
        return False
    nonce = greeting.removeprefix(_GREETING).decode(errors="replace")
    index, count = str(participant.index).encode(), str(participant.count).encode()
    proof = _proof(participant.token, nonce, index, count)
    door.sendall(b" ".join([proof, index, count]) + b"\n")
    answer = _line(door)
    if not answer:
        raise ConnectionError("process 0 has left")
    if answer != b"welcome":
        raise UserError(
            f"process 0 at {participant.address} doesn't let this process in ({answer.decode()}): all "
            f"processes of a run, and no others, need the same {COORDINATOR}, {COUNT} and {TOKEN}."
        )
    door.settimeout(max(1.0, end - time.monotonic()))
    if not _line(door):
        raise ConnectionError("process 0 has left")
    return True


def _proof(token: str, nonce: str, index: bytes, count: bytes) -> bytes:
    told = b" ".join([nonce.encode(), index, count])
    return hmac.new(os.fsencode(token), told, "sha256").hexdigest().encode()


def _line(connection: socket.socket) -> bytes:
    """What the other side says, up to its end of line; empty where it has gone, or says too much or
    nothing."""
    said = b""
    with contextlib.suppress(TimeoutError):
        while len(said) < 200 and not said.endswith(b"\n"):
            byte = connection.recv(1)
            if not byte:
                return b""
            said += byte
    return said[:-1] if said.endswith(b"\n") else b""


def _has_left(connection: socket.socket) -> bool:
    """Whether one that waits has gone."""
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

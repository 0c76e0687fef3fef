"""Several processes as one run: how they find each other, and how all end when one of them does.

When a process dies, the others would wait in a collective for ever. So every process has a thread
that writes signs of life to the key-value store of jax's coordination service, which process 0
runs, and reads there whether another process has ended. Then it prints a message and calls
`os._exit`, since nothing can wake the main thread.

A thread of Python gets no turn while another one compiles on a busy machine, so that silence alone
does not prove a death (see `dead_processes`). jax's own heartbeats need no Python. When they stop,
or when process 0 itself dies, jax aborts the other processes; `_before_aborting` adds to jax's
messages what happened. That needs Python's lock; where a call never gives it back, `_end_if_stuck`
ends the process.
"""

import contextlib
import ctypes
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import jax
from jax._src import distributed as jax_distributed  # its public part has no key-value store

from cvvae_jax.errors import UserError
from cvvae_jax.processes import dead_processes, rendezvous

DIED = 75
"""Exit status after another process died: a temporary failure, after which a run is started
again."""

_PERIOD = 2.0
"""Seconds between signs of life."""
_STUCK = 300.0
"""Seconds after which a process is ended if no thread gets Python's lock any more. Compiled code
holds the lock for seconds, and for up to a minute on a busy machine."""
_LATE = 45.0
"""Seconds that a process may go on after another one has reached its end."""
_CLOSING = 300.0
"""Seconds that a process may go on after another one was stopped by a signal. All stop after the
same step, and only their logs are left to close, which may take Weights & Biases minutes."""
_ARRIVAL = 300
"""Seconds to wait for all processes at the start."""

_PREFIX = "cvvae_jax"
"""The keys of the key-value store begin with it."""


def join() -> "Processes":
    """Connects this process with the others of its run. It must run before jax is asked for
    devices.

    jax detects TPU pods, Slurm, Open MPI and Kubernetes. Elsewhere `JAX_COORDINATOR_ADDRESS`,
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` describe the process, and the processes first meet (see
    `rendezvous`), so that no process of another run is taken for one of this run.

    If the others don't come, the process ends with a message and the status `DIED`.

    Raises:
        UserError: no cluster is detected, a variable is wrong, or another run uses the address.
    """
    participant = rendezvous.from_environment(os.environ)
    settings = {}
    if participant is not None:
        settings = participant.settings
        try:
            rendezvous.meet(participant, seconds=float(_ARRIVAL))
        except rendezvous.RendezvousTimeout:
            _end_for_missing_processes()
    restore_handler = _before_aborting(_end_for_missing_processes)
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    try:
        jax.distributed.initialize(
            **settings,
            initialization_timeout=_ARRIVAL,
            # jax's own heartbeats end this process where the thread here can't. They find a death
            # after 30 to 60 seconds, so that the thread is nearly always first.
            heartbeat_timeout_seconds=60,
            shutdown_timeout_seconds=int(_CLOSING),
        )
    except ValueError as error:
        raise UserError(
            "--distributed finds no TPU pod, Slurm, Open MPI or Kubernetes job around this "
            f"process ({error}); set {rendezvous.COORDINATOR}=HOST:PORT of process 0, "
            f"{rendezvous.COUNT} and {rendezvous.INDEX} (from 0), or leave --distributed out."
        ) from error
    except jax.errors.JaxRuntimeError:
        _end_for_missing_processes()
    finally:
        restore_handler()
    return Processes()


def _end_for_missing_processes() -> None:
    _print(
        f"error: not all processes have come together within {_ARRIVAL} seconds; has each one been "
        "started, and does it reach process 0?"
    )
    os._exit(DIED)


def _before_aborting(explain: Callable[[], None]) -> Callable[[], None]:
    """Has a function called when jax aborts the process; the abort goes on when it returns.

    jax aborts from C++, where neither an exception nor a handler of Python's `signal` module runs.

    Returns:
        A function that restores the handler before.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: explain())
    _handlers.append(handler)
    replace = ctypes.CDLL(None).signal
    replace.argtypes, replace.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    previous = replace(int(signal.SIGABRT), ctypes.cast(handler, ctypes.c_void_p))
    return lambda: replace(int(signal.SIGABRT), previous)


_handlers: list = []
"""References that keep the handlers alive, which C code uses."""


def _print(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Processes:
    """This process among the others of its run, which are watched until it ends."""

    def __init__(self):
        # From the coordination service, since jax.process_index() would start the devices, which
        # may take minutes without a sign of life.
        self.index = jax_distributed.global_state.process_id
        self.count = jax_distributed.global_state.num_processes
        self.name = f"process {self.index} of {self.count} on {socket.gethostname()}"
        self._client = jax_distributed.global_state.client
        self._coordinator = jax_distributed.global_state.coordinator_address
        self._ending = threading.Lock()
        self._reached_end = False
        self._status: int | None = None  # the exit status, once this process is about to fail
        self._aborting = False
        self._signs = dead_processes.LifeSigns(self.count)
        self._ended_at: dict[int, float] = {}
        self._silent: set[int] = set()
        self._names: dict[int, str] = {}
        self._put("name", self.name)
        self._put("place", dead_processes.own_place())
        if self.count > 1:
            _before_aborting(self._explain_abort)
            threading.Thread(target=self._end_if_stuck, daemon=True).start()
            threading.Thread(target=self._watch, daemon=True).start()

    def check_same(self, settings: str) -> None:
        """Compares the settings of this process, as text, with those of process 0.

        Raises:
            UserError: they differ; the processes would then wait for each other for ever.
        """
        self._put("settings", settings)
        theirs = self._client.blocking_key_value_get(f"{_PREFIX}/settings/0", 1000 * _ARRIVAL)
        if theirs != settings:
            ours = set(settings.splitlines())
            lines = [line.strip(" ,") for line in theirs.splitlines() if line not in ours]
            raise UserError(
                "all processes must be started with the same settings; process 0 has "
                f"{'; '.join(lines[:3]) or 'fewer of them'}, and this one has not."
            )

    def barrier(self, name: str) -> None:
        """Waits until all processes have called this with the same name, however long that takes.

        If one of them dies meanwhile, this process ends, too.
        """
        self._put(f"met {name}", "here")
        while len(self._entries(f"met {name}")) < self.count:
            time.sleep(_PERIOD / 4)

    def end(self, status: int, said: str, *, together: bool) -> int:
        """Ends this process's part of the run.

        Args:
            status: its exit status.
            said: its last message to the user.
            together: True: all processes end now, and the call returns when all have come. False:
                only this one ends; the others are told why, and end with the same status.

        Returns:
            The exit status, with which the process must end at once.
        """
        with self._ending:
            self._reached_end = True
        if said and (self.index == 0 or not together):
            self._say(said)
        self._put("ended", f"{0 if together else status} {said.partition(chr(10))[0]}")
        if not together:
            self._status = status
            self._let_others_read()
            return status
        try:
            jax.distributed.shutdown()
        except jax.errors.JaxRuntimeError as error:
            self._say(f"error: the others have not come to the end with this process: {error}")
            return DIED
        return status

    def await_verdict(self, error: BaseException) -> None:
        """Waits, after an error of the main thread, until it is known whether another process's
        death was the cause; if so, this process ends. Ctrl-C cuts the wait short, and an error that
        no death can have caused needs none."""
        cause, suspicious = error, False
        while cause is not None:
            suspicious |= isinstance(cause, jax.errors.JaxRuntimeError)
            cause = cause.__cause__ or cause.__context__
        if suspicious and self.count > 1:
            with contextlib.suppress(KeyboardInterrupt):
                self._put("suspicion", "a collective failed")
                time.sleep(dead_processes.SUSPICIOUS_SILENCE + 4 * _PERIOD)

    def _end_if_stuck(self) -> None:
        """Keeps a timer running that ends the process with status 1 if this thread gets no lock of
        Python's for `_STUCK` seconds.

        Where the main thread keeps the lock in a call that never returns, neither the threads here
        run nor what `_before_aborting` has jax call.
        """
        while not self._aborting:
            faulthandler.dump_traceback_later(_STUCK, exit=True, file=sys.__stderr__)
            time.sleep(_PERIOD)

    def _watch(self) -> None:
        """Looks at the others until the process ends."""
        while True:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self.look()
            time.sleep(_PERIOD)

    def look(self) -> None:
        """Gives a sign of life, and ends this process if another one has ended."""
        self._put("alive", str(time.monotonic()), allow_overwrite=True)
        if self.index == 0:
            self._report_dead_processes()
        self._silent, self._names = set(self._entries("silent")), self._entries("name")
        for index, entry in self._entries("ended").items():
            self._end_after(index, entry)

    def _report_dead_processes(self) -> None:
        """Process 0 writes down for all which processes have died or are silent."""
        found = self._signs.examine(
            self._entries("alive"),
            self._entries("place"),
            collective_failed=bool(self._entries("suspicion")),
        )
        for index in found.silent:
            self._put("silent", "", of=index)
        for index, reason in found.dead.items():
            self._put("ended", f"{DIED} {reason}", of=index)

    def _end_after(self, index: int, entry: str) -> None:
        """Ends this process if it has to after another one's end, of which `entry` gives the status
        and the last message."""
        status, _, said = entry.partition(" ")
        first_seen = self._ended_at.setdefault(index, time.monotonic())
        with self._ending:
            if self._reached_end:
                return
            limit = _CLOSING if said else _LATE  # a message beside the status 0: it was stopped
            if int(status) == 0 and time.monotonic() - first_seen > limit:
                status, said = "1", f"it reached its end {limit:.0f} s ago, and this one has not"
            if int(status) == 0:
                return
            name = self._name(index)
            reason = f"{name} has {'died' if int(status) == DIED else 'ended'}: {said}"
            self._leave(int(status), reason)

    def _name(self, index: int) -> str:
        return self._names.get(index, f"process {index}")

    def _leave(self, status: int, reason: str) -> None:
        """Ends this process after another one."""
        self._status = status
        self._say(
            f"error: {reason.rstrip('.')}. All processes of the run end; the same command goes on "
            "from the newest checkpoint, if there is one."
        )
        self._let_others_read()
        os._exit(status)

    def _explain_abort(self) -> None:
        """Says why jax aborts this process, below jax's own messages, and ends it; returns where
        the reason isn't known."""
        self._aborting = True
        if self._status is not None:
            os._exit(self._status)  # the reason has been given already
        if self.index and not self._coordinator_answers():
            self._leave(DIED, f"process 0 has died, or can't be reached at {self._coordinator}")
        if silent := sorted(self._silent - {self.index}):
            names = " and ".join(map(self._name, silent))
            self._leave(DIED, f"{names} died, or can't be reached: there was no sign of life")
        self._say(
            "error: aborted. If the lines above tell of an unhealthy task, that process has died, "
            "and the same command goes on from the newest checkpoint, if there is one."
        )

    def _coordinator_answers(self) -> bool:
        """Whether process 0 still listens, over two seconds."""
        host, _, port = self._coordinator.rpartition(":")
        for _ in range(8):
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
            except OSError:
                return False
            time.sleep(0.25)  # a dying process may close its listening port last
        return True

    def _say(self, text: str) -> None:
        """Prints a message on stderr and, if possible, writes it to the process's log."""
        _print(f"{self.name}: {text}")
        record = logging.LogRecord(__name__, logging.CRITICAL, __file__, 0, text, None, None)
        handlers = logging.getLogger("cvvae_jax").handlers  # the root's would print it once more
        logged = threading.Thread(
            target=lambda: [handler.handle(record) for handler in handlers], daemon=True
        )
        logged.start()
        logged.join(timeout=2)  # the main thread may hold a lock that logging needs

    def _let_others_read(self) -> None:
        """Process 0 waits, since the store that the others read ends with it."""
        if self.index == 0 and self.count > 1:
            time.sleep(2.5 * _PERIOD)

    def _put(
        self, topic: str, text: str, *, of: int | None = None, allow_overwrite: bool = False
    ) -> None:
        """Writes an entry of a process, by default of this one, to the key-value store."""
        key = f"{_PREFIX}/{topic}/{self.index if of is None else of}"
        # An entry that exists already stays. Without process 0, jax ends this process anyway.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(key, text, allow_overwrite=allow_overwrite)

    def _entries(self, topic: str) -> dict[int, str]:
        """The entries of a topic in the key-value store, by process."""
        entries = self._client.key_value_dir_get(f"{_PREFIX}/{topic}/")
        return {int(key.rpartition("/")[2]): text for key, text in entries}

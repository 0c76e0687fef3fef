"""Several processes as one run: how they find each other, and how all end when one of them does.

A process that dies leaves the others waiting in a collective for ever. So every process has a
thread that leaves a sign of life on jax's coordination service, which process 0 runs, and reads
there whether another one has ended; its last act is then a message and `os._exit`, since the main
thread can't be woken.

Silence alone is no death: a thread of Python gets no turn while another one compiles on a machine
with too much to do. Of the processes of its own machine process 0 asks the kernel; of others, jax's
own heartbeats tell, which need no Python. When these stop, and when process 0 itself dies, jax
aborts the others; `_before_aborting` adds to its dump what happened. That takes Python's lock,
without which `_end_if_stuck` ends the process.
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
from cvvae_jax.processes import liveness, rendezvous

DIED = 75
"""Exit code after another process died: a temporary failure, to be tried again."""

_PERIOD = 2.0
"""Seconds between signs of life."""
_SILENCE = 20.0
"""Seconds without one after which a process is named, should jax find that it is dead."""
_SUSPICIOUS_SILENCE = 10.0
"""Seconds after which a process of another machine is taken to be dead once a collective has
failed, as it does where a connection breaks."""
_STUCK = 300.0
"""Seconds after which a process is ended in which nothing gets Python's lock any more; compiled
code holds it for seconds, on a machine with too much to do for a minute."""
_LATE = 45.0
"""Seconds that a process may go on after another one has reached its end."""
_CLOSING = 300.0
"""The same once they have stopped on request, which all do after the same step: what is left to do
is closing logs, and Weights & Biases may take minutes over it."""
_ARRIVAL = 300
"""Seconds to wait for all processes at the start."""

_BOARD = "cvvae_jax"


def join() -> "Processes":
    """Connects this process with the others of its run; before anything else asks jax for devices.

    TPU pods, Slurm, Open MPI and Kubernetes are detected; elsewhere `JAX_COORDINATOR_ADDRESS`,
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` say who is who; these processes meet at a door first
    (see `door`), so that none of another run comes between them.

    Where the others don't come, the process ends with a message and the code `DIED`.

    Raises:
        UserError: nothing is detected, a variable is wrong, or another run is at the address.
    """
    participant = rendezvous.from_environment(os.environ)
    by_hand = {}
    if participant is not None:
        by_hand = {
            "coordinator_address": participant.address,
            "num_processes": participant.count,
            "process_id": participant.index,
            "cluster_detection_method": "deactivate",
            "coordinator_bind_address": participant.bind_address,
        }
        try:
            rendezvous.meet(participant, seconds=float(_ARRIVAL))
        except rendezvous.RendezvousTimeout:
            _not_all_have_come()
    as_before = _before_aborting(_not_all_have_come)
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    try:
        jax.distributed.initialize(
            **by_hand,
            initialization_timeout=_ARRIVAL,
            # jax's own watch, which ends this process where the thread here can't: half of this to
            # the whole after a process's death, so that it is rarely first.
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
        _not_all_have_come()
    finally:
        as_before()
    return Processes()


def _not_all_have_come() -> None:
    _print(
        f"error: not all processes have come together within {_ARRIVAL} seconds; has each one been "
        "started, and does it reach process 0?"
    )
    os._exit(DIED)


def _before_aborting(explain: Callable[[], None]) -> Callable[[], None]:
    """Calls a function when jax aborts the process; a function that returns lets it go on.

    jax does that from C++, which no exception and no handler of Python's `signal` gets a hold of.

    Returns:
        What puts the handler before it back.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: explain())
    _handlers.append(handler)
    replace = ctypes.CDLL(None).signal
    replace.argtypes, replace.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    previous = replace(int(signal.SIGABRT), ctypes.cast(handler, ctypes.c_void_p))
    return lambda: replace(int(signal.SIGABRT), previous)


_handlers: list = []
"""Kept, since nothing else knows that they are in use."""


def _print(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Processes:
    """This process among those of its run, watched from here to its end."""

    def __init__(self):
        # As the coordination service has them: jax.process_index() would start the devices, which
        # may take minutes, and no sign of life would be left meanwhile.
        self.index = jax_distributed.global_state.process_id
        self.count = jax_distributed.global_state.num_processes
        self.name = f"process {self.index} of {self.count} on {socket.gethostname()}"
        self._client = jax_distributed.global_state.client
        self._coordinator = jax_distributed.global_state.coordinator_address
        self._ending = threading.Lock()
        self._reached_end = False
        self._status: int | None = None  # with which this process is about to end, not well
        self._aborting = False
        self._heard: dict[int, tuple[str | None, float]] = {
            index: (None, time.monotonic()) for index in range(1, self.count)
        }
        self._ended_at: dict[int, float] = {}
        self._neighbors: dict[int, liveness.Neighbor] = {}
        self._silent: set[int] = set()
        self._names: dict[int, str] = {}
        self._put("name", self.name)
        self._put("place", liveness.own_place())
        if self.count > 1:
            _before_aborting(self._explain_abort)
            threading.Thread(target=self._end_if_stuck, daemon=True).start()
            threading.Thread(target=self._watch, daemon=True).start()

    def check_same(self, settings: str) -> None:
        """Compares the settings of this process, as text, with those of process 0.

        Raises:
            UserError: they differ, so that the processes would wait for each other for ever.
        """
        self._put("settings", settings)
        theirs = self._client.blocking_key_value_get(f"{_BOARD}/settings/0", 1000 * _ARRIVAL)
        if theirs != settings:
            ours = set(settings.splitlines())
            lines = [line.strip(" ,") for line in theirs.splitlines() if line not in ours]
            raise UserError(
                "all processes must be started with the same settings; process 0 has "
                f"{'; '.join(lines[:3]) or 'fewer of them'}, and this one has not."
            )

    def meet(self, topic: str) -> None:
        """Waits until all processes have come here, however long that takes.

        A process that dies meanwhile ends this one too.
        """
        self._put(f"met {topic}", "here")
        while len(self._board(f"met {topic}")) < self.count:
            time.sleep(_PERIOD / 4)

    def end(self, status: int, said: str, *, together: bool) -> int:
        """Ends this process's part of the run.

        Args:
            status: its exit code.
            said: its last words, to the user.
            together: all processes end here and now; the code returns when all have come. False:
                only this one does, and the others are told why and end with the same code.

        Returns:
            The exit code, with which the process must end at once.
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
        """To be called with what has ended the main thread: where another process's death may be
        the reason, waits until that is known, which ends this process; or until Ctrl-C."""
        seen, suspicious = error, False
        while seen is not None:
            suspicious |= isinstance(seen, jax.errors.JaxRuntimeError)
            seen = seen.__cause__ or seen.__context__
        if suspicious and self.count > 1:
            with contextlib.suppress(KeyboardInterrupt):
                self._put("suspicion", "a collective failed")
                time.sleep(_SUSPICIOUS_SILENCE + 4 * _PERIOD)

    def _end_if_stuck(self) -> None:
        """Has the process end, with the code 1, once this thread can't put that off any more.

        Where the main thread keeps Python's lock for ever, in a call that doesn't come back, no
        thread here gets to run, nor does what `_before_aborting` has jax's abort wait for.
        """
        while not self._aborting:
            faulthandler.dump_traceback_later(_STUCK, exit=True, file=sys.__stderr__)
            time.sleep(_PERIOD)

    def _watch(self) -> None:
        """Looks at the board until the process ends."""
        while True:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self.look()
            time.sleep(_PERIOD)

    def look(self) -> None:
        """Leaves a sign of life on the board, and ends this process if another one has ended."""
        self._put("alive", str(time.monotonic()), allow_overwrite=True)
        if self.index == 0:
            self._find_the_dead()
        self._silent, self._names = set(self._board("silent")), self._board("name")
        for index, entry in self._board("ended").items():
            self._judge(index, entry)

    def _find_the_dead(self) -> None:
        """Puts processes on the board that have died, and those of other machines that are
        silent."""
        now, signs, places = time.monotonic(), self._board("alive"), self._board("place")
        suspicion = bool(self._board("suspicion"))
        for index, (before, since) in self._heard.items():
            if index in places and index not in self._neighbors:
                self._neighbors[index] = liveness.Neighbor(places[index])
            runs = self._neighbors[index].runs if index in self._neighbors else None
            if signs.get(index) != before:
                self._heard[index] = (signs.get(index), now)
            elif runs is None and now - since > _SILENCE:
                self._put("silent", "", of=index)
            if runs is False:
                self._put("ended", f"{DIED} its process is gone", of=index)
            elif runs is None and suspicion and now - self._heard[index][1] > _SUSPICIOUS_SILENCE:
                said = f"a collective failed, and there is no sign of life for {now - since:.0f} s"
                self._put("ended", f"{DIED} {said}", of=index)

    def _judge(self, index: int, entry: str) -> None:
        """Ends this process if another one's end, as its entry tells it, leaves it alone."""
        status, _, said = entry.partition(" ")
        first_seen = self._ended_at.setdefault(index, time.monotonic())
        with self._ending:
            if self._reached_end:
                return
            limit = _CLOSING if said else _LATE  # only after a stop is there something to say
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
        """Says what jax's dump above means; returns where it isn't known."""
        self._aborting = True
        if self._status is not None:
            os._exit(self._status)  # it has been said why
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
        """Whether process 0 still listens, two seconds from now at the latest."""
        host, _, port = self._coordinator.rpartition(":")
        for _ in range(8):
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
            except OSError:
                return False
            time.sleep(0.25)  # a process's connections may be closed before its listening port
        return True

    def _say(self, text: str) -> None:
        """A message on stderr and, where that can be, in the process's log."""
        _print(f"{self.name}: {text}")
        record = logging.LogRecord(__name__, logging.CRITICAL, __file__, 0, text, None, None)
        handlers = logging.getLogger(_BOARD).handlers  # not the root's, which print it once more
        logged = threading.Thread(
            target=lambda: [handler.handle(record) for handler in handlers], daemon=True
        )
        logged.start()
        logged.join(timeout=2)  # the main thread may hold a lock that logging needs

    def _let_others_read(self) -> None:
        """Process 0 has the board that the others read."""
        if self.index == 0 and self.count > 1:
            time.sleep(2.5 * _PERIOD)

    def _put(
        self, topic: str, text: str, *, of: int | None = None, allow_overwrite: bool = False
    ) -> None:
        """Puts something on the board, of this process if of no other one."""
        key = f"{_BOARD}/{topic}/{self.index if of is None else of}"
        # What is there already counts. Without process 0, jax ends this one.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(key, text, allow_overwrite=allow_overwrite)

    def _board(self, topic: str) -> dict[int, str]:
        """What is on the board, by process."""
        entries = self._client.key_value_dir_get(f"{_BOARD}/{topic}/")
        return {int(key.rpartition("/")[2]): text for key, text in entries}

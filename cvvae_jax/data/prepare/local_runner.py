"""Runs the jobs in processes of this machine, which end with the main process."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Protocol, runtime_checkable

from cvvae_jax.errors import UserError
from cvvae_jax.resumable.target import Target


@runtime_checkable
class Job(Protocol):
    """A piece of work for a process of its own, which writes its result to the target."""

    target: Target

    @property
    def result(self) -> str:
        """Name of the file that exists once the job is done."""
        ...

    @property
    def what(self) -> str:
        """What the job works on, for messages."""
        ...

    def __len__(self) -> int:
        """Number of the source's files that the job works on."""
        ...

    def run(self) -> None:
        """Do the work, and write the result."""
        ...


@dataclasses.dataclass(frozen=True)
class LocalRunner:
    """Runs jobs in a number of processes."""

    workers: int | None
    """Number of processes; None for one per core."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Run jobs, and yield each when it is done.

        Raises:
            UserError: a job failed, or its process was killed.
        """
        workers = min(self.workers or len(os.sched_getaffinity(0)), len(jobs))
        if not workers:
            return
        pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_begin_worker
        )
        try:
            yield from _run(pool, jobs, workers)
        except BaseException:
            _kill(pool)
            raise
        pool.shutdown()


def _run(pool: ProcessPoolExecutor, jobs: Sequence[Job], workers: int) -> Iterator[Job]:
    """Hands out no more jobs than there are workers: if one dies, these are the jobs to name."""
    waiting = iter(jobs)
    running: dict[Future, Job] = {}
    while True:
        for job in waiting:
            running[_submit(pool, job, running)] = job
            if len(running) == workers:
                break
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            try:
                future.result()
            except BrokenProcessPool:
                raise _killed(running.values()) from None
            yield running.pop(future)


def _submit(pool: ProcessPoolExecutor, job: Job, running: dict[Future, Job]) -> Future:
    try:
        return pool.submit(_call, job)
    except BrokenProcessPool:
        raise _killed(running.values()) from None


def _call(job: Job) -> None:
    try:
        job.run()
    except MemoryError:
        raise UserError(f"There is not enough memory for {job.what}.") from None


def _killed(jobs) -> UserError:
    return UserError(
        "A worker process was killed, maybe for want of memory, while it was at "
        f"{' or '.join(job.what for job in jobs)}. What is finished stays, and the same command "
        "goes on; --workers 1 needs the least memory, --exclude leaves a file out."
    )


def _begin_worker() -> None:
    # Ctrl-C reaches all processes of a terminal; the main process ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=[parent.sentinel], daemon=True).start()


def _end_with(sentinel: int) -> None:
    """Ends this worker with the main process, which can't end it after being killed."""
    wait_for([sentinel])
    os._exit(1)


def _kill(pool: ProcessPoolExecutor) -> None:
    # The executor has no method for this before Python 3.14.
    for process in list((pool._processes or {}).values()):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    pool.shutdown(wait=True, cancel_futures=True)

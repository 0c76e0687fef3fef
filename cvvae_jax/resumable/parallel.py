"""Work done ahead in threads, within bounds, and taken in its order."""

import collections
import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")

_END = object()
# Seconds after which a thread whose result nobody takes looks whether it is still wanted.
_PATIENCE = 0.2


def in_order(jobs: Iterable[Callable[[], Iterator[Result]]], *, threads: int) -> Iterator[Result]:
    """What every job gives, one job after the other, while the next ones run already.

    Args:
        jobs: each is called in a thread of its own.
        threads: how many run at once. Each has one result ready, and makes the next, at most.

    Raises:
        BaseException: whatever a job raised, where its results end.
    """
    stop, jobs = threading.Event(), iter(jobs)
    running: collections.deque[queue.Queue] = collections.deque()
    try:
        while True:
            while len(running) < threads and (job := next(jobs, None)) is not None:
                results: queue.Queue = queue.Queue(maxsize=1)
                threading.Thread(target=_run, args=(job, results, stop), daemon=True).start()
                running.append(results)
            if not running:
                return
            yield from _results(running[0])
            running.popleft()
    finally:
        stop.set()


def _results(results: queue.Queue) -> Iterator[Any]:
    while True:
        result, error = results.get()
        if error is not None:
            raise error
        if result is _END:
            return
        yield result


def _run(job: Callable[[], Iterator[Any]], results: queue.Queue, stop: threading.Event) -> None:
    try:
        with contextlib.closing(job()) as made:
            for result in made:
                _put(results, (result, None), stop)
                if stop.is_set():
                    return
        _put(results, (_END, None), stop)
    except BaseException as error:  # the one who takes the results shall know
        _put(results, (None, error), stop)


def _put(results: queue.Queue, result: tuple, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            results.put(result, timeout=_PATIENCE)
            return

"""Work done in threads whose results are taken in the order of the work."""

import collections
import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_END = object()
# Seconds between two looks whether a result that nobody has taken yet is still wanted.
_POLL_SECONDS = 0.2


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Iterator[Result]:
    """`map(function, items)` on several threads; no more items than threads are held at a time."""

    def job(item: Item) -> Generator[Result]:
        yield function(item)

    return in_order(((lambda item=item: job(item)) for item in items), threads=threads)


def in_order(jobs: Iterable[Callable[[], Generator[Result]]], *, threads: int) -> Iterator[Result]:
    """The results of all jobs, job after job, while the next jobs run already.

    Args:
        jobs: each is called in a thread of its own and generates results.
        threads: how many jobs run at once. Each of them holds at most one finished result, and
            the one that it works on.

    Raises:
        BaseException: whatever a job raised, at the place of the result that is missing.
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
    """The results of one job until it ends or fails."""
    while True:
        result, error = results.get()
        if error is not None:
            raise error
        if result is _END:
            return
        yield result


def _run(job: Callable[[], Generator[Any]], results: queue.Queue, stop: threading.Event) -> None:
    """Put the results of a job into its queue, and then its end or its error."""
    try:
        with contextlib.closing(job()) as made:
            for result in made:
                _put(results, (result, None), stop)
                if stop.is_set():
                    return
        _put(results, (_END, None), stop)
    except BaseException as error:  # raised again in the thread that takes the results
        _put(results, (None, error), stop)


def _put(results: queue.Queue, result: tuple, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            results.put(result, timeout=_POLL_SECONDS)
            return

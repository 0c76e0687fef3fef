"""Work ahead in threads: its order, its bounds, and its end."""

import functools
import threading
import time

import pytest

from cvvae_jax.resumable.parallel import in_order


def test_results_come_in_the_order_of_the_jobs():
    """The first jobs are the slowest."""

    def job(number):
        for part in range(3):
            time.sleep(0.01 * (4 - number))
            yield number, part

    jobs = (functools.partial(job, number) for number in range(5))
    found = list(in_order(jobs, threads=3))
    assert found == [(number, part) for number in range(5) for part in range(3)]


def test_no_more_is_made_than_the_threads_hold():
    """Each of two threads has one result ready and one that it cannot hand over."""
    made = []

    def job(number):
        for part in range(10):
            made.append((number, part))
            yield number, part

    results = in_order((functools.partial(job, number) for number in range(9)), threads=2)
    assert next(results) == (0, 0)
    deadline = time.monotonic() + 30
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # for what must not be made
    assert sorted(made) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    results.close()


def test_jobs_run_at_the_same_time():
    both = threading.Barrier(2, timeout=30)

    def job():
        both.wait()
        yield 1

    assert list(in_order([job, job], threads=2)) == [1, 1]


def test_an_error_is_raised_where_its_results_end():
    def job():
        yield 1
        raise ValueError("of a thread")

    results = in_order([job, job], threads=2)
    assert next(results) == 1
    with pytest.raises(ValueError, match="of a thread"):
        next(results)


def test_threads_end_when_nobody_takes_their_results():
    closed = threading.Event()

    def job():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    results = in_order([job], threads=1)
    next(results)
    results.close()
    assert closed.wait(30)

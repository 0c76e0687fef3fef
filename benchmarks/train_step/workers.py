"""Every row in a process of its own, so that its peak of memory is its own, and that running out of
it ends nothing else."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.train_step.setting import Row, official_flops

OUT_OF_MEMORY = "out of memory"


class RowFailed(Exception):
    """A row can't be measured; the message says why, in a line."""


@dataclasses.dataclass
class Result:
    """What was measured of a row."""

    row: Row
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Of the device, and of the programs where they are compiled."""
    runs: list[dict[str, float]] = dataclasses.field(default_factory=list)
    """Seconds of every kind of step, and of the host's processors (`cpu`), in every timed round."""
    peak_bytes: int | None = None
    failure: str | None = None

    def seconds(self) -> dict[str, float]:
        """The median of every kind of step."""
        return {
            program: statistics.median(run[program] for run in self.runs)
            for program in self.row.programs
        }

    def cpu_seconds(self) -> float:
        """What a round takes of the host's processors, the median."""
        return statistics.median(run["cpu"] for run in self.runs)


def measure(
    rows: list[Row], *, warm_up: int, repeats: int, profile: Path | None, in_turns: bool
) -> Iterator[Result]:
    """The results of rows, in order.

    In turns, rows of one kind of batch and update are measured together, a step of each at a time,
    so that whatever else the machine does slows all of them; else one after the other, so that each
    has the device for itself.
    """
    if in_turns:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    for group in _groups(rows) if in_turns else ([row] for row in rows):
        results = [Result(row) for row in group]
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(_Worker(row)) for row in group]
            pairs = list(zip(workers, results, strict=True))
            _each(pairs, _start)
            for i in range(warm_up + repeats):
                _each(pairs, _timed if i >= warm_up else _warm)
            if profile is not None:
                _each(pairs, lambda worker, _: worker.ask("profile", profile))
            _each(pairs, _finish)
        yield from results


def _groups(rows: list[Row]) -> Iterable[list[Row]]:
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.kind, row.updates), []).append(row)
    return grouped.values()


def _each(pairs: list[tuple["_Worker", Result]], act: Callable[["_Worker", Result], None]) -> None:
    """Those that failed before are left out."""
    for worker, result in pairs:
        if result.failure is None:
            try:
                act(worker, result)
            except RowFailed as failure:
                result.failure = str(failure)
                worker.close()


def _start(worker: "_Worker", result: Result) -> None:
    result.facts = worker.ask("facts")


def _warm(worker: "_Worker", result: Result) -> None:
    worker.ask("step")


def _timed(worker: "_Worker", result: Result) -> None:
    result.runs.append(worker.ask("step"))


def _finish(worker: "_Worker", result: Result) -> None:
    result.peak_bytes = worker.ask("peak")


class _Worker:
    """A process that answers requests about one row."""

    def __init__(self, row: Row):
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, row), daemon=True)
        self._process.start()
        theirs.close()  # so that reading ends when the process does

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, request: str, argument: Any = None) -> Any:
        """An answer.

        Raises:
            RowFailed: the request did, or the process died.
        """
        try:
            self._pipe.send((request, argument))
            worked, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            killed = self._process.exitcode == -signal.SIGKILL  # as systems do that lack memory
            reason = "killed" if killed else f"exit code {self._process.exitcode}"
            raise RowFailed(f"{OUT_OF_MEMORY} ({reason})" if killed else reason) from None
        if not worked:
            raise RowFailed(answer)
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(timeout=20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Any, row: Row) -> None:
    """Answers requests until nobody asks any more."""
    step = None
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            request, argument = pipe.recv()
            try:
                step = step or _create(row)
                pipe.send((True, _answer(step, row, request, argument)))
            except Exception as error:
                pipe.send((False, describe(error)))


def _create(row: Row) -> Any:
    if row.side == "torch":
        import jax

        jax.config.update("jax_platforms", "cpu")  # makes the weights; the device is PyTorch's
        from benchmarks.train_step.theirs import TheirStep

        return TheirStep(row)
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
    from benchmarks.train_step.ours import OurStep

    return OurStep(row)


def _answer(step: Any, row: Row, request: str, argument: Any) -> Any:
    match request:
        case "facts":
            return step.facts() | {"official": sum(official_flops(row).values())}
        case "step":
            start = time.process_time()
            return step() | {"cpu": time.process_time() - start}
        case "peak":
            return step.peak_bytes()
        case "profile":
            name = f"{row.kind}-{row.updates}-{row.precision}-{row.remat}"
            return step.profile(argument / name) if row.side == "jax" else None


def describe(error: Exception) -> str:
    """A line."""
    text = f"{type(error).__name__}: {error}"
    marks = ("RESOURCE_EXHAUSTED", "out of memory", "MemoryError", "can't allocate memory")
    if any(mark.lower() in text.lower() for mark in marks):
        return OUT_OF_MEMORY
    return f"failed: {text.splitlines()[0]}"[:200]

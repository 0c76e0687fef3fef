"""How far a command is, on stderr: a bar on a terminal, elsewhere a plain line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0

Item = TypeVar("Item")


def track(items: Iterable[Item], *, total: int | None, unit: str) -> Iterator[Item]:
    """The items, while how many there were and how fast they came is shown.

    Args:
        items: what is worked through.
        total: how many there will be; None where that is not known.
        unit: what an item is called, in the plural.
    """
    console = Console(file=sys.stderr)
    return (_bar if console.is_terminal else _lines)(items, total, unit, console)


def _bar(items: Iterable[Item], total: int | None, unit: str, console: Console) -> Iterator[Item]:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + "{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total, rate="")
        for count, item in enumerate(items, start=1):
            yield item
            rate = f", {count / (time.monotonic() - start):.2f}/s"
            progress.update(task, completed=count, rate=rate)


def _lines(items: Iterable[Item], total: int | None, unit: str, console: Console) -> Iterator[Item]:
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            of = f" of {total}" if total else ""
            rate = f"{count / (now - start):.2f}/s"
            print(f"{count}{of} {unit}, {rate}", file=console.file, flush=True)
            last = now

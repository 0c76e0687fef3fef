"""The program as its user sees it: how it was started, and how far it is."""

import io
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SCRIPTS = {"train": "train.py", "evaluate": "eval.py"}
"""The commands that the folder of a clone has a script of its own for."""


def program(command: str = "") -> str:
    """What stands before a command's arguments: `cvvae-jax COMMAND` where the installed program was
    started, `python train.py` and `python eval.py` where these scripts were, otherwise `python -m
    cvvae_jax COMMAND`."""
    started = Path(sys.argv[0])
    if started.name == _SCRIPTS.get(command.partition(" ")[0]):
        return f"python {started.name}"
    start = "cvvae-jax" if started.stem == "cvvae-jax" else "python -m cvvae_jax"
    return f"{start} {command}".rstrip()


def keep_printing() -> None:
    """Names that are no UTF-8 are printed with escapes, where Python would raise an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """What is still printed goes nowhere: the reader of a pipe, such as `head`, has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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

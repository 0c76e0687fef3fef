"""What all commands print: the program's name in help texts, and progress."""

import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cvvae_jax.compiling import Stopwatch

_SCRIPTS = {"train": "train.py", "evaluate": "eval.py"}
"""Scripts in a clone of the repository that run a command."""


def program(command: str = "") -> str:
    """How the user started a command, without its arguments.

    This is `cvvae-jax COMMAND` for the installed program, `python train.py` or `python eval.py` for
    these scripts, and `python -m cvvae_jax COMMAND` for everything else.
    """
    started = Path(sys.argv[0])
    if started.name == _SCRIPTS.get(command.partition(" ")[0]):
        return f"python {started.name}"
    start = "cvvae-jax" if started.stem == "cvvae-jax" else "python -m cvvae_jax"
    return f"{start} {command}".rstrip()


def keep_printing() -> None:
    """Print file names that are no UTF-8 with escapes; by default, Python raises an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Discard all further output, since the reader of a pipe, such as `head`, has ended."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_SECONDS_BETWEEN_LINES = 10.0

Item = TypeVar("Item")


def track(items: Iterable[Item], *, total: int | None, unit: str) -> Iterator[Item]:
    """Yield items, and show on stderr how many there have been and how fast they come.

    Args:
        items: the items.
        total: number of items; None where it is not known.
        unit: name of the items, in the plural.
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
    watch = Stopwatch()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total, rate="")
        for count, item in enumerate(items, start=1):
            yield item
            rate = f", {count / watch.working():.2f}/s"
            progress.update(task, completed=count, rate=rate)


def _lines(items: Iterable[Item], total: int | None, unit: str, console: Console) -> Iterator[Item]:
    watch, last = Stopwatch(), 0.0
    for count, item in enumerate(items, start=1):
        yield item
        now = watch.seconds()
        if now - last >= _SECONDS_BETWEEN_LINES:
            of = f" of {total}" if total else ""
            rate = f"{count / watch.working():.2f}/s"
            print(f"{count}{of} {unit}, {rate}", file=console.file, flush=True)
            last = now

"""The program as its user sees it: how it was started, and who reads what it prints."""

import io
import os
import sys
from pathlib import Path

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

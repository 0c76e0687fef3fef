"""Command lines become dataclasses, by tyro; options that do not exist are named, with those that
were meant."""

import contextlib
import difflib
import io
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import tyro

from cvvae_jax.errors import ConfigError

_ALIKE = 0.7
_CLOSE = 0.08  # what is less like the word by more is not suggested beside the likeliest
_MOST = 4  # names that a message suggests


def parse(kind: type, command_line: list[str], *, prog: str, **settings: Any) -> Any:
    """`tyro.cli`, whose further settings it takes.

    Args:
        kind: the dataclass.
        command_line: the arguments.
        prog: the program and command, as the usage message shows them.
        settings: of `tyro.cli`.

    Raises:
        ConfigError: an option does not exist.
        SystemExit: the arguments are malformed otherwise (tyro prints why), or help was asked for.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=command_line, prog=prog, **settings)
    except SystemExit as left:
        if not left.code:
            raise
    others_follow = bool(settings.get("return_unknown_args"))
    _refuse_unknown(command_line, _options(kind, prog, settings), prog, others_follow)
    return tyro.cli(kind, args=command_line, prog=prog, **settings)  # which prints why it fails


def _refuse_unknown(given: list[str], known: list[str], prog: str, others_follow: bool) -> None:
    """Raises a ConfigError for the first option that is unknown; where the options of a recipe
    follow, for the first one that is like a known one."""
    for argument in given:
        option = argument.partition("=")[0].replace("_", "-")
        if not re.match(r"--[A-Za-z]", option) or option in known or _opposite(option) in known:
            continue
        alike = [f"--{name}" for name in nearest(option[2:], [name[2:] for name in known])]
        if not alike and others_follow:
            continue
        program = prog.partition(" [")[0]
        meant = f"did you mean {' or '.join(alike)}? " if alike else ""
        raise ConfigError(
            f"there is no option {argument.partition('=')[0]}: {meant}`{program} --help` lists all."
        )


def _opposite(option: str) -> str:
    """Of a flag `--no-flip` that tyro makes beside `--flip`, the other."""
    head, _, last = option.rpartition(".")
    last = last.removeprefix("no-") if head else f"--{last.removeprefix('--no-')}"
    return f"{head}.{last}" if head else last


def _options(kind: type, prog: str, settings: dict[str, Any]) -> list[str]:
    """The options that help lists, on a page so narrow that it has one column."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit), _one_column():
        tyro.cli(kind, args=["--help"], prog=prog, **settings)
    return re.findall(r"^[^\w-]*(?:-\w, )?(--[A-Za-z][\w.-]*)", page.getvalue(), re.MULTILINE)


@contextlib.contextmanager
def _one_column() -> Iterator[None]:
    """A context in which the terminal seems to have 80 columns. Wider help has several columns of
    options, so that not every option begins a line."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def nearest(word: str, names: Iterable[str]) -> list[str]:
    """The names that a misspelled, shortened or incomplete word may stand for, the likeliest first;
    at most four. Names may have parts: `train.optimizer.learning-rate` is found by `optimizer.lr`.
    """
    likeness = {name: _likeness(word, name) for name in names}
    least = max(_ALIKE, max(likeness.values(), default=0.0) - _CLOSE)
    alike = [name for name in likeness if likeness[name] >= least]
    return sorted(alike, key=lambda name: (-likeness[name], len(name)))[:_MOST]


def _likeness(word: str, name: str) -> float:
    """How likely a word stands for a name: 0 to 1."""
    *parents, last = word.split(".")
    *of_name, last_of_name = name.split(".")
    words = last_of_name.split("-")
    own = _ratio(last, last_of_name)
    if last in words:
        own = max(own, 0.8)
    if len(words) > 1 and last == "".join(each[:1] for each in words):
        own = 0.9
    if not parents:
        return max(own, _ratio(word, name))
    above = [max((_ratio(parent, each) for each in of_name), default=0.0) for parent in parents]
    return max(0.5 * own + 0.5 * sum(above) / len(above), _ratio(word, name))


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(a=a.lower(), b=b.lower()).ratio()

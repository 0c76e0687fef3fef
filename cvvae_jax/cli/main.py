"""Runs a command of the program, and turns errors into one line and an exit status."""

import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

from cvvae_jax.arguments import nearest
from cvvae_jax.cli.program import discard_output, keep_printing, program
from cvvae_jax.compiling import keep_compiled_programs
from cvvae_jax.config.places import argument_at_home
from cvvae_jax.errors import UserError, visible_lines
from cvvae_jax.processes.stop import ending_at_once

COMMANDS = {
    "convert": "Convert weights from PyTorch to JAX or back, and compare the two.",
    "data": "Check training data, prepare it, or show what is trained on.",
    "decode": "Write the video or the image of latents.",
    "encode": "Write the latents of a video or an image.",
    "evaluate": "Measure VAEs on clips by a protocol, and compare them.",
    "inspect": "Describe a checkpoint, ours or PyTorch's, without loading it.",
    "latents": "Encode a data set into shards of latents.",
    "preflight": "Say whether a training run fits hardware that you don't have.",
    "reconstruct": "Encode and decode a video or an image, and write the reconstruction.",
    "train": "Train a video VAE by a recipe.",
}
"""Every command and what it does. It runs as `main(command_line)` of `cvvae_jax.cli.NAME`."""
_COMPILING_NOTHING = ("data", "inspect")
_SHARED = ("decode", "encode", "evaluate", "reconstruct")
"""Commands that several processes can share with --distributed; `train` handles it itself."""


def run(command_line: list[str] | None = None) -> NoReturn:
    """Run one command and end the process with its exit status.

    Args:
        command_line: name and arguments of the command; default: those of this process.
    """
    status = main(sys.argv[1:] if command_line is None else command_line)
    if status:
        # After an error or Ctrl-C, a device may still compute. A regular exit would tear down jax
        # at the same time and crash (exit status -11 in place of 130).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(0)


def main(command_line: list[str]) -> int:
    """Run one command.

    Args:
        command_line: name and arguments of the command.

    Returns:
        The exit status: 0; 1 if a process failed, or `data check` found bad files; 2 after a
        `UserError`; 130 after Ctrl-C. `train` has further ones (see `cli.train`).
    """
    command_line = [argument_at_home(argument) for argument in command_line]
    compiles = bool(command_line) and command_line[0] not in _COMPILING_NOTHING
    if compiles and not {"-h", "--help"} & set(command_line):
        _prepare_compiling()
    match command_line:
        case [("-h" | "--help"), *_]:
            print(_help())
            return 0
        case ["train", *rest]:
            # `train` handles signals, and the death of other processes, itself.
            with ending_at_once("the same command goes on from the newest checkpoint, if any."):
                from cvvae_jax.cli import train

                return train.main(rest)
        case [name, *rest] if name in COMMANDS:
            return _run(name, rest)
        case [name, *_]:
            meant = nearest(name, COMMANDS)
            hint = f"did you mean {meant[0]}? Commands" if meant else "commands"
            return _fail(f"there is no command {name}; {hint} are {', '.join(COMMANDS)}.")
        case _:
            return _fail(f"a command is missing.\n\n{_help()}")


def _prepare_compiling() -> None:
    """Shows what is compiled, before and after, and keeps it for the next start."""
    for name in ("cvvae_jax.codec", "cvvae_jax.compiling"):
        log = logging.getLogger(name)
        # absl, which Orbax imports, would print messages that propagate a second time.
        log.handlers, log.propagate = [_OnStderr()], False
        log.setLevel(logging.INFO)
    if "jax" not in sys.modules:
        # XLA calls it an error that compiling takes more than two minutes, and says so again and
        # again. What is an error raises an exception as well.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    keep_compiled_programs()


class _OnStderr(logging.Handler):
    """Prints the messages of the first of several processes."""

    def emit(self, record: logging.LogRecord) -> None:
        jax = sys.modules.get("jax")
        if jax is None or jax.process_index() == 0:
            print(record.getMessage(), file=sys.stderr, flush=True)


def _run(name: str, rest: list[str]) -> int:
    _set_hooks()
    keep_printing()
    if name in _SHARED and "--distributed" in rest and not {"-h", "--help"} & set(rest):
        return _run_distributed(name, rest)
    status, message = _outcome(name, rest)
    if message:
        print(visible_lines(message), file=sys.stderr)
    return status


def _run_distributed(name: str, rest: list[str]) -> int:
    """Run a command in this process of several; only the first process prints and writes."""
    from cvvae_jax.processes import group

    try:
        joined = group.join()
    except UserError as error:
        return _fail(str(error))
    try:
        joined.check_same("\n".join([name, *rest]))
        with contextlib.redirect_stdout(None) if joined.index else contextlib.nullcontext():
            # The codec shares videos by itself, over all devices; `evaluate` shares its clips.
            joining = {"joined": joined} if name == "evaluate" else {}
            status, message = _outcome(name, rest, **joining)
    except UserError as error:
        status, message = 2, f"error: {error}"
    except Exception as error:
        joined.await_verdict(error)
        status, message = 1, f"error: {error}\n{traceback.format_exc()}"
    status = joined.end(status, message, together=status == 0)
    # A regular exit would wait for the other processes once more.
    sys.stdout.flush()
    os._exit(status)


def _outcome(name: str, rest: list[str], **joining: Any) -> tuple[int, str]:
    """Run a command; return the exit status and the message of a failure."""
    try:
        # Imported here, so that a command does not load the libraries of other commands.
        importlib.import_module(f"cvvae_jax.cli.{name}").main(rest, **joining)
        if sys.stdout:
            sys.stdout.flush()
    except UserError as error:
        return 2, f"error: {error}"
    except BrokenPipeError:
        discard_output()
    except KeyboardInterrupt as error:
        return 130, f"\nInterrupted. {str(error) or 'Nothing was written.'}"
    return 0, ""


def _set_hooks() -> None:
    """Silence the logs of Orbax, and keep Ctrl-C working.

    When Orbax fails to read or write, its threads log pages of tracebacks. The error that it raises
    is reported in one sentence.
    """
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    report = sys.unraisablehook

    def hook(args):
        if args.exc_type is KeyboardInterrupt:
            # It came while jax's callback of the garbage collector ran, where Python drops it.
            heard = _heard_interrupt()
            threading.Thread(target=_interrupt_after, args=(hook, heard), daemon=True).start()
        elif str(args.exc_value) != "Event loop is closed":
            report(args)

    sys.unraisablehook = hook


def _heard_interrupt() -> threading.Event:
    """An event that is set once the handler of the next SIGINT runs."""
    heard, before = threading.Event(), signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: types.FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        heard.set()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, handler)
    return heard


def _interrupt_after(function: Callable, heard: threading.Event) -> None:
    """Interrupts the main thread once more as soon as it has left a function, in which Python would
    drop the exception. A signal that comes just before the thread begins to wait does not end the
    wait, so it is sent until its handler runs."""
    main = threading.main_thread().ident
    while _is_within(function, sys._current_frames().get(main)):
        time.sleep(0.01)
    while not heard.is_set():
        signal.pthread_kill(main, signal.SIGINT)
        heard.wait(0.1)


def _is_within(function: Callable, frame: types.FrameType | None) -> bool:
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


def _fail(message: str) -> int:
    print(visible_lines(f"error: {message}"), file=sys.stderr)
    return 2


def _help() -> str:
    lines = [f"  {name:<14}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {program()} COMMAND [ARGUMENTS]",
            "",
            "commands:",
            *lines,
            "",
            f"{program()} COMMAND --help lists a command's arguments.",
        ]
    )

"""Finds the command, and turns what goes wrong into one line and an exit status."""

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

from cvvae_jax.cli.program import discard_output, keep_printing, program
from cvvae_jax.config import ConfigError
from cvvae_jax.config.home import argument_at_home
from cvvae_jax.config.visible import visible_lines
from cvvae_jax.signals import ending_at_once

COMMANDS = {
    "convert": "Convert weights from PyTorch to JAX or back, and compare the two.",
    "data": "Check training data, prepare it, or show what is trained on.",
    "decode": "Write the video or the image of latents.",
    "encode": "Write the latents of a video or an image.",
    "evaluate": "Measure VAEs on clips by a protocol, and compare them.",
    "inspect": "Describe a checkpoint, ours or PyTorch's, without loading it.",
    "latents": "Encode a data set into shards of latents.",
    "preflight": "Say whether a training run fits hardware that you don't have.",
    "reconstruct": "Send a video or an image through a VAE and write what comes back.",
    "train": "Train a video VAE by a recipe.",
}
"""Every command and what it does; it is `main(arguments)` in the module `cvvae_jax.cli.NAME`."""
_SHARED = ("decode", "encode", "evaluate", "reconstruct")
"""Those that several processes can work on together."""


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and end the process with its exit status.

    Args:
        arguments: the command and its arguments; default: those that the program was started with.
    """
    status = main(sys.argv[1:] if arguments is None else arguments)
    if status:
        # After an error or Ctrl-C a device may still be at work on what was sent to it, and a
        # regular exit, which tears down jax under it, crashes the process (exit status -11 instead
        # of 130).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(0)


def main(arguments: list[str]) -> int:
    """Run one command.

    Args:
        arguments: the command and its arguments.

    Returns:
        The exit status: 0; 1 where a process failed, or `data check` found bad files; 2 after an
        error of the user's; 130 after Ctrl-C. `train` has more (see `cli.train`).
    """
    arguments = [argument_at_home(argument) for argument in arguments]
    match arguments:
        case [("-h" | "--help"), *_]:
            print(_help())
            return 0
        case ["train", *rest]:
            # It handles signals and ends of other processes by itself.
            with ending_at_once("the same command goes on from the newest checkpoint, if any."):
                from cvvae_jax.cli import train

                return train.main(rest)
        case [name, *rest] if name in COMMANDS:
            return _run(name, rest)
        case [name, *_]:
            return _fail(f"there is no command {name}; there are: {', '.join(COMMANDS)}.")
        case _:
            return _fail(f"a command is missing.\n\n{_help()}")


def _run(name: str, arguments: list[str]) -> int:
    _set_hooks()
    keep_printing()
    if name in _SHARED and "--distributed" in arguments and not {"-h", "--help"} & set(arguments):
        return _run_together(name, arguments)
    status, said = _outcome(name, arguments)
    if said:
        print(visible_lines(said), file=sys.stderr)
    return status


def _run_together(name: str, arguments: list[str]) -> int:
    """One process of several, of which the first one speaks and writes."""
    from cvvae_jax import processes

    try:
        joined = processes.join()
    except ConfigError as error:
        return _fail(str(error))
    try:
        joined.check_same("\n".join([name, *arguments]))
        with contextlib.redirect_stdout(None) if joined.index else contextlib.nullcontext():
            # Videos are shared on the devices; clips to measure are not.
            options = {"joined": joined} if name == "evaluate" else {}
            status, said = _outcome(name, arguments, **options)
    except ConfigError as error:
        status, said = 2, f"error: {error}"
    except Exception as error:
        joined.await_verdict(error)
        status, said = 1, f"error: {error}\n{traceback.format_exc()}"
    status = joined.end(status, said, together=status == 0)
    # A regular exit would wait for the others once more.
    sys.stdout.flush()
    os._exit(status)


def _outcome(name: str, arguments: list[str], **options: Any) -> tuple[int, str]:
    """Runs a command: the exit status, and what is said of a failure."""
    try:
        # Imported here, so that one command does not wait for what another one needs.
        importlib.import_module(f"cvvae_jax.cli.{name}").main(arguments, **options)
        if sys.stdout:
            sys.stdout.flush()
    except ConfigError as error:
        return 2, f"error: {error}"
    except BrokenPipeError:
        discard_output()
    except KeyboardInterrupt as error:
        return 130, f"\nInterrupted. {str(error) or 'Nothing was written.'}"
    return 0, ""


def _set_hooks() -> None:
    """Keeps Orbax quiet, and Ctrl-C working.

    A failed read or write of Orbax's also prints pages of tracebacks from its threads; the error
    that it raises is reported in one sentence.
    """
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    report = sys.unraisablehook

    def hook(args):
        if args.exc_type is KeyboardInterrupt:
            # It came while jax's callback of the garbage collector ran, where Python drops it.
            again = threading.Thread(target=_interrupt_after, args=(hook,), daemon=True)
            again.start()
        elif str(args.exc_value) != "Event loop is closed":
            report(args)

    sys.unraisablehook = hook


def _interrupt_after(function: Callable) -> None:
    """Interrupts the main thread once more as soon as it has left a function, in which Python would
    drop the exception; by a signal, which also ends what the thread waits for."""
    main = threading.main_thread().ident
    while _is_within(function, sys._current_frames().get(main)):
        time.sleep(0.01)
    signal.pthread_kill(main, signal.SIGINT)


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

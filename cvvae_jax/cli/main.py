"""Finds the command, and turns what goes wrong into one line and an exit status."""

import _thread
import importlib
import logging
import os
import sys
import threading

from cvvae_jax.config import ConfigError

COMMANDS = {
    "convert": "Convert weights from PyTorch to JAX or back, and compare the two.",
    "data": "Check training data, prepare it, or show what is trained on.",
    "inspect": "Describe a checkpoint, ours or PyTorch's, without loading it.",
    "latents": "Encode a data set into shards of latents.",
    "preflight": "Say whether a training run fits hardware that you don't have.",
    "reconstruct": "Send a video or an image through a VAE and write what comes back.",
}
"""Every command and what it does; it is `main(arguments)` in the module `cvvae_jax.cli.NAME`."""


def main(arguments: list[str]) -> int:
    """Run one command.

    Args:
        arguments: the command line after `python -m cvvae_jax`.

    Returns:
        The exit status: 0, or 2 after an error of the user's, or 130 after Ctrl-C.
    """
    match arguments:
        case [("-h" | "--help"), *_]:
            print(_help())
            return 0
        case [name, *rest] if name in COMMANDS:
            return _run(name, rest)
        case [name, *_]:
            return _fail(f"there is no command {name}; there are: {', '.join(COMMANDS)}.")
        case _:
            return _fail(f"a command is missing.\n\n{_help()}")


def _run(name: str, arguments: list[str]) -> int:
    _set_hooks()
    try:
        # Imported here, so that one command does not wait for what another one needs.
        importlib.import_module(f"cvvae_jax.cli.{name}").main(arguments)
        sys.stdout.flush()
    except ConfigError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as error:
        print(f"\nInterrupted. {str(error) or 'Nothing was written.'}", file=sys.stderr)
        return 130
    return 0


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
            # It came while jax's callback of the garbage collector ran, where Python drops it, and
            # would drop it here too.
            threading.Timer(0.1, _thread.interrupt_main).start()
        elif str(args.exc_value) != "Event loop is closed":
            report(args)

    sys.unraisablehook = hook


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _help() -> str:
    lines = [f"  {name:<14}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m cvvae_jax COMMAND [ARGUMENTS]",
            "",
            "commands:",
            *lines,
            "",
            "python -m cvvae_jax COMMAND --help lists a command's arguments.",
        ]
    )

"""`python train.py RECIPE [--dry-run] [--distributed] [--section.field VALUE]`: trains a video VAE.

`--help` after a recipe documents every setting. `--dry-run` prints what the run would be: sizes,
operations, memory, schedule, and what is missing. With `--distributed` this is one process of
several, which a cluster starts (see launch/).
"""

import os
import sys
import traceback
from typing import TYPE_CHECKING

from cvvae_jax.cli.program import discard_output, program
from cvvae_jax.errors import UserError, visible_lines
from cvvae_jax.processes.stop import Stopped, StopSignals
from cvvae_jax.recipe import parse_train_config, recipe_names, to_json

if TYPE_CHECKING:
    from cvvae_jax.processes.group import Processes

FLAGS = {
    "--dry-run": "Print what the run would be: sizes, memory, schedule, what is missing.",
    "--distributed": "This is one process of several, which their cluster or variables describe.",
}
INTERRUPTED = "stopped; the same command goes on from the newest checkpoint, if there is one."


def main(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: the command line, the recipe first.

    Returns:
        The exit status: 0 at the end of the run and after SIGTERM; 130 after Ctrl-C; 2 after an
        error of the user's; 1 after an error that another start may not meet, such as a full disk.
        Of several processes, all have the status of the one that ended the others, or 75 if it
        died. A signal leaves a checkpoint of the last step, unless updates were being skipped then
        or no step had been done (see `processes.stop`).
    """
    if not arguments:
        print(f"error: a recipe is missing.\n\n{_introduction()}", file=sys.stderr)
        return 2
    # Help needs one process only; one of several would wait for the others.
    if "--distributed" not in arguments or {"-h", "--help"} & set(arguments):
        status, said, _ = _outcome(arguments)
        if said:
            print(visible_lines(said), file=sys.stderr)
        return status
    # Imported only now, since --help must not start jax.
    from cvvae_jax.processes import group

    try:
        joined = group.join()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    # From here on the other processes must learn of a stop, which takes a step.
    with StopSignals() as stop:
        return _run_together(arguments, joined, stop)


def _introduction() -> str:
    """What who gives no recipe needs to know."""
    train = program("train")
    return f"""\
Trains a video VAE by a recipe: a Python file with all settings. The two commonest commands:

  {train} quickstart
      trains a small one from scratch, in minutes, without any data of yours
  {train} quickstart --data.videos DIR --workdir runs/mine
      trains on your own videos, and puts all it writes into runs/mine

Recipes: {", ".join(recipe_names())}.
{train} RECIPE --help documents every setting, --dry-run says what a run would be."""


def _outcome(
    arguments: list[str], joined: "Processes | None" = None, stop: StopSignals | None = None
) -> tuple[int, str, bool]:
    """Runs the recipe.

    Returns:
        The exit status, the last message to the user, and whether all processes end this way.
    """
    try:
        recipe = [argument for argument in arguments if argument not in FLAGS]
        config = parse_train_config(recipe, prog=program("train"), flags=FLAGS)
        if joined is not None:
            joined.check_same(to_json(config))
        if "--dry-run" in arguments:
            from cvvae_jax.training.dry_run import dry_run

            dry_run(config)
            return 0, "", True
        from cvvae_jax.training.loop import train

        train(config, stop)
    except UserError as error:
        if joined is not None:
            joined.await_verdict(error)
        return 2, f"error: {error}", False
    except BrokenPipeError:
        discard_output()
        return 0, "", True
    except OSError as error:  # another start may find the disk free, or the network up
        if joined is not None:
            joined.await_verdict(error)
        return 1, f"error: {error}", False
    except Stopped as stopped:
        return stopped.exit_code, str(stopped), True
    except KeyboardInterrupt:
        return 130, INTERRUPTED, False
    return 0, "", True


def _run_together(arguments: list[str], joined: "Processes", stop: StopSignals) -> int:
    try:
        status, said, together = _outcome(arguments, joined, stop)
    except SystemExit as left:
        status, said = _status_and_message(left)
        together = status == 0
    except Exception as error:
        joined.await_verdict(error)
        status, said, together = 1, f"error: {error}\n{traceback.format_exc()}", False
    try:
        status = joined.end(status, said, together=together)
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        status = 130
    # A regular exit would wait for the others once more.
    sys.stdout.flush()
    os._exit(status)


def _status_and_message(left: SystemExit) -> tuple[int, str]:
    """The exit status that Python gives a SystemExit, and its message to the user."""
    if left.code is None or left.code == 0:
        return 0, ""
    if isinstance(left.code, int):
        return left.code, "error: the command line is wrong"  # which tyro has explained
    return 1, f"error: {left.code}"

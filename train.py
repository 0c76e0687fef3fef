"""Trains a video VAE: `python train.py RECIPE [--dry-run] [--distributed] [--section.field VALUE]`.

`--help` after a recipe documents every field; `--dry-run` prints what the run would be: sizes,
operations, memory, schedule, and what is missing. With `--distributed` this is one process of
several, found through the cluster that they are started by (see launch/).
"""

import os
import sys
import traceback
from typing import TYPE_CHECKING

from cvvae_jax.config import ConfigError
from cvvae_jax.recipe import parse_train_config, to_json
from cvvae_jax.training.stop import Stopped

if TYPE_CHECKING:
    from cvvae_jax.processes import Processes

FLAGS = ("--dry-run", "--distributed")
INTERRUPTED = "stopped; the same command goes on from the newest checkpoint, if there is one."


def main() -> int:
    """Runs the recipe named on the command line; 0 also after SIGTERM, which leaves a checkpoint, 2
    after a mistake of the user's, told in one sentence, 1 after what another start may not meet,
    130 after Ctrl-C; and with several processes the code of the one that ended them, 75 if it
    died."""
    # Help is no matter of several processes, which it would wait for.
    if "--distributed" not in sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
        status, said, _ = outcome(None)
        if said:
            print(said, file=sys.stderr)
        return status
    # Imported only now, since --help must not start jax.
    from cvvae_jax import processes

    try:
        joined = processes.join()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return _run_together(joined)


def outcome(joined: "Processes | None") -> tuple[int, str, bool]:
    """Runs the recipe: the exit code, what is said to the user, and whether that was an end which
    all processes have come to."""
    try:
        config = parse_train_config([a for a in sys.argv[1:] if a not in FLAGS])
        if joined is not None:
            joined.check_same(to_json(config))
        if "--dry-run" in sys.argv[1:]:
            from cvvae_jax.training.dry_run import dry_run

            dry_run(config)
            return 0, "", True
        from cvvae_jax.training.loop import train

        train(config)
    except ConfigError as error:
        if joined is not None:
            joined.await_verdict(error)
        return 2, f"error: {error}", False
    except OSError as error:  # another start may find the disk free, or the network up
        if joined is not None:
            joined.await_verdict(error)
        return 1, f"error: {error}", False
    except Stopped as stopped:
        return stopped.exit_code, str(stopped), True
    except KeyboardInterrupt:
        return 130, INTERRUPTED, False
    return 0, "", True


def _run_together(joined: "Processes") -> int:
    try:
        status, said, together = outcome(joined)
    except SystemExit as left:
        status, said = _meaning(left)
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


def _meaning(left: SystemExit) -> tuple[int, str]:
    """The exit code, as Python takes it, and what is said to the user."""
    if left.code is None or left.code == 0:
        return 0, ""
    if isinstance(left.code, int):
        return left.code, "error: the command line is wrong"  # which tyro has explained
    return 1, f"error: {left.code}"


if __name__ == "__main__":
    status = main()
    if status:
        # A device may still be at work after Ctrl-C, and a regular exit, which tears down jax
        # under it, would crash.
        sys.stdout.flush()
        os._exit(status)

"""Trains a video VAE: `python train.py RECIPE [--dry-run] [--section.field VALUE ..]`.

`--help` after a recipe documents every field; `--dry-run` prints what the run would be: sizes,
operations, memory, schedule, and what is missing.
"""

import os
import sys

from cvvae_jax.config import ConfigError
from cvvae_jax.recipe import parse_train_config
from cvvae_jax.training.stop import Stopped


def main() -> int:
    """Runs the recipe named on the command line; 2 after a mistake of the user's, told in one
    sentence, 130 after Ctrl-C, 143 after SIGTERM."""
    try:
        overrides = [argument for argument in sys.argv[1:] if argument != "--dry-run"]
        config = parse_train_config(overrides)
        # Imported only now, since --help must not start jax.
        if len(overrides) < len(sys.argv) - 1:
            from cvvae_jax.training.dry_run import dry_run

            dry_run(config)
            return 0
        from cvvae_jax.training.loop import train

        train(config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal_number
    except KeyboardInterrupt:
        message = "stopped; the same command goes on from the newest checkpoint, if there is one."
        print(message, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    status = main()
    if status:
        # A device may still be at work after Ctrl-C, and a regular exit, which tears down jax
        # under it, would crash.
        sys.stdout.flush()
        os._exit(status)

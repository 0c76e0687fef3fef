"""Trains a video VAE: `python train.py RECIPE [--section.field VALUE ..]`; `--help` documents every
field."""

import sys

from cvvae_jax.config import ConfigError, parse_train_config


def main() -> int:
    """Runs the recipe named on the command line; 2 after a mistake of the user's, told in one
    sentence."""
    try:
        config = parse_train_config(sys.argv[1:])
        from cvvae_jax.training.loop import train  # only now: --help must not start jax

        train(config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the newest checkpoint.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

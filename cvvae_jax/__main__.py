"""Runs a command as `python -m cvvae_jax COMMAND`."""

from cvvae_jax.cli.main import run

if __name__ == "__main__":
    run()

"""Trains a video VAE: `python train.py RECIPE [--dry-run] [--distributed] [--section.field VALUE]`.

`--help` after a recipe documents every field; `--dry-run` prints what the run would be. It is
`cvvae-jax train` for the folder of a clone.
"""

import sys

from cvvae_jax.cli.main import run

if __name__ == "__main__":
    run(["train", *sys.argv[1:]])

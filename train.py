"""Trains a video VAE: `python train.py RECIPE [--dry-run] [--distributed] [--section.field VALUE]`.

`--help` after a recipe documents every setting; `--dry-run` prints what the run would be. In the
folder of a clone, this script does what the installed `cvvae-jax train` does.
"""

import sys

from cvvae_jax.cli.main import run

if __name__ == "__main__":
    run(["train", *sys.argv[1:]])

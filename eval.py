"""Measures VAEs: `python eval.py [NAME=]PATH .. --data DIR --protocol NAME [--out DIR]`.

This script runs the command `evaluate` in a clone of the repository, where nothing is installed.
`--help` documents every argument.
"""

import sys

from cvvae_jax.cli.main import run

if __name__ == "__main__":
    run(["evaluate", *sys.argv[1:]])

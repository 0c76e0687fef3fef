"""Measures VAEs: `python eval.py [NAME=]PATH .. --data DIR --protocol NAME [--out DIR]`.

In the folder of a clone, this script does what the installed `cvvae-jax evaluate` does. `--help`
documents every argument.
"""

import sys

from cvvae_jax.cli.main import run

if __name__ == "__main__":
    run(["evaluate", *sys.argv[1:]])

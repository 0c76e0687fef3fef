"""Measures VAEs: `python eval.py [NAME=]PATH .. --data DIR --protocol NAME [--out DIR]`.

`--help` documents every option. With `--distributed` this is one process of several. It is
`cvvae-jax evaluate` for the folder of a clone.
"""

import sys

from cvvae_jax.cli.main import run

if __name__ == "__main__":
    run(["evaluate", *sys.argv[1:]])

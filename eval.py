"""Measures VAEs: `python eval.py [NAME=]PATH .. --data DIR --protocol NAME [--out DIR]`.

`--help` documents every option. With `--distributed` this is one process of several.
"""

import sys

from cvvae_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))

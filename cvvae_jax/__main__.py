"""`python -m cvvae_jax COMMAND`."""

import os
import sys

from cvvae_jax.cli.main import main

status = main(sys.argv[1:])
if status:
    # After an error or Ctrl-C a device may still be at work on what was sent to it, and a regular
    # exit, which tears down jax under it, crashes the process (exit status -11 instead of 130).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

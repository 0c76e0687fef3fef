"""`python -m cvvae_jax COMMAND`."""

import sys

from cvvae_jax.cli.main import main

sys.exit(main(sys.argv[1:]))

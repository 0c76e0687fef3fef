"""One page from the results of an evaluation, and the example clips that it plays."""

from cvvae_jax.evaluation.report.page import write_report
from cvvae_jax.evaluation.report.players import write_example

__all__ = ["write_example", "write_report"]

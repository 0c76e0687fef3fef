"""The share of a job that one of several processes does."""

import dataclasses

from cvvae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Share:
    """The shards that one of several processes makes. The processes don't communicate."""

    process_index: int = 0
    """Number of this process, from 0 on."""
    process_count: int = 1
    """Number of processes that run this command on the same target, on any machines."""

    def __post_init__(self):
        if not 0 <= self.process_index < self.process_count:
            raise UserError(
                "process-index must be from 0 to below process-count, not "
                f"{self.process_index} of {self.process_count}."
            )

    def has(self, shard: int) -> bool:
        """Whether this process makes the shard with this number."""
        return shard % self.process_count == self.process_index

    def __str__(self) -> str:
        return f"process {self.process_index} of {self.process_count}"

"""The part of a job that one of several processes does."""

import dataclasses

from cvvae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Share:
    """The shards that one of several processes makes; they need not know of each other."""

    process_index: int = 0
    """Which one this is, from 0 on."""
    process_count: int = 1
    """Processes that run this command on the same target, anywhere."""

    def __post_init__(self):
        if not 0 <= self.process_index < self.process_count:
            raise UserError(
                "process-index must be from 0 to below process-count, not "
                f"{self.process_index} of {self.process_count}."
            )

    def has(self, shard: int) -> bool:
        """Whether a shard is one of this process's."""
        return shard % self.process_count == self.process_index

    def __str__(self) -> str:
        return f"process {self.process_index} of {self.process_count}"

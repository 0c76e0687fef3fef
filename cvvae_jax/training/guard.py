"""What happens when losses or gradients are no numbers.

A step skips its own update (see `training.step`). Too many in a row mean that the parameters
themselves have gone bad: the run goes back to its last checkpoint and past the batches it has seen,
once.
"""

import dataclasses

import jax

from cvvae_jax.config import ConfigError
from cvvae_jax.training.jobs import Job
from cvvae_jax.training.log import say
from cvvae_jax.training.state import TrainState


class Diverged(Exception):
    """Too many updates in a row were skipped."""

    def __init__(self, step: int, guard: dict[str, int]):
        """Say where.

        Args:
            step: the last step that was done.
            guard: the state's `guard` after it.
        """
        super().__init__(step, guard)
        self.step, self.guard = step, guard


def check_guard(step: int, guard: dict[str, int], job: Job) -> None:
    """Raises Diverged if a step, the state's guard after it given, was one skip too many."""
    if max(guard["vae_in_a_row"], guard["gan_in_a_row"]) >= job.stage.max_skipped:
        raise Diverged(step, guard)


def after_rollback(state: TrainState, divergence: Diverged, job: Job) -> TrainState:
    """An earlier state that goes on behind the batches that were seen when the run diverged.

    Raises:
        ConfigError: it has been rolled back before.
    """
    guard, count = divergence.guard, job.stage.max_skipped
    advice = "lower the learning rate, start the GAN later, or compute in float32"
    if guard["rollbacks"]:
        raise ConfigError(
            f"the {job.title} diverged again at step {divergence.step}: {count} updates in a row "
            f"had a loss or gradient that is not finite, though the run had gone back and on with "
            f"other data before. Its checkpoints are kept in {job.folder}; {advice}."
        )
    step = int(state.step)
    offset = divergence.step + guard["data_offset"] - step
    offset += offset % 2  # pairs of steps that share a bucket stay pairs
    say(
        job.folder,
        f"{job.title}: {count} updates in a row were skipped up to step {divergence.step}, since a "
        f"loss or gradient was not finite; going back to step {step} and on with other batches "
        f"({offset} are left out). If it happens again: {advice}.",
    )
    after = {
        "skipped": guard["skipped"],
        "vae_in_a_row": 0,
        "gan_in_a_row": 0,
        "rollbacks": 1,
        "data_offset": offset,
    }
    fresh = {
        name: jax.device_put(value, getattr(state.guard, name).sharding).astype("int32")
        for name, value in after.items()
    }
    return dataclasses.replace(state, guard=dataclasses.replace(state.guard, **fresh))

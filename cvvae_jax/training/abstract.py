"""A run's stages as shapes and types: all that planning one needs, without weights or data."""

import dataclasses
import functools
import math
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from cvvae_jax import sharding
from cvvae_jax.config import TrainConfig
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.training.jobs import Job, Plan, initial_state
from cvvae_jax.training.programs import Programs
from cvvae_jax.training.state import Frozen, TrainState


@dataclasses.dataclass(frozen=True)
class AbstractStage:
    """One stage of a run."""

    job: Job
    """What is trained."""
    state: TrainState
    """Shapes and types of what changes."""
    frozen: Frozen
    """Shapes and types of what doesn't."""

    @property
    def kept(self) -> dict[str, Any]:
        """What stays on the devices from step to step, in parts."""
        return {
            "parameters": (self.state.model, self.state.discriminator),
            "moments": (self.state.opt_state, self.state.gan_opt_state),
            "averages": self.state.ema,
            "frozen networks": self.frozen,
        }

    def programs(self, config: TrainConfig) -> Programs:
        """Its steps, to be compiled."""
        return Programs(self.job, config, self.state, self.frozen)


def abstract_stages(plan: Plan, config: TrainConfig) -> list[AbstractStage]:
    """The stages of a run, in order."""
    lpips = plan.lpips.abstract if plan.lpips else None
    jobs = [(plan.image, Frozen(lpips=lpips)), (plan.video, Frozen(_image_vae(plan), lpips))]
    return [_abstract(job, frozen, config) for job, frozen in jobs if job is not None]


def bytes_per_device(tree: Any, mesh: Mesh | AbstractMesh) -> int:
    """Of arrays that lie on the mesh by the rules of `sharding`."""
    leaves = zip(
        jax.tree.leaves(tree), jax.tree.leaves(sharding.shardings(tree, mesh)), strict=True
    )
    return sum(math.prod(s.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, s in leaves)


def _abstract(job: Job, frozen: Frozen, config: TrainConfig) -> AbstractStage:
    start = job.start.abstract if job.start else None
    state = jax.eval_shape(functools.partial(initial_state, job, seed=config.seed), frozen, start)
    return AbstractStage(job, state, frozen)


def _image_vae(plan: Plan) -> ImageVAE:
    if plan.image_vae is not None:
        return plan.image_vae.abstract
    return jax.eval_shape(
        lambda key: ImageVAE(plan.image_config, rngs=nnx.Rngs(key)), jax.random.key(0)
    )

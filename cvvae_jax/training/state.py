"""What training goes on from."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cvvae_jax.models.autoencoder import VAE


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes; a pytree."""

    step: Any
    """Steps done, int32; also the position in the data."""

    model: VAE
    """The network being trained."""

    ema: VAE
    """Its exponentially averaged parameters."""
    opt_state: Any
    """The optimizer's moments and counters."""

    @classmethod
    def create(cls, model: VAE, optimizer: optax.GradientTransformation) -> "TrainState":
        """The state before the first step.

        The average is a copy, since donated buffers must not be shared, and float32, since steps of
        an average are smaller than half precision resolves.
        """
        average = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), model)
        return cls(jnp.zeros((), jnp.int32), model, average, optimizer.init(model))


def random_streams(seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Independent keys: for initialization, for the noise of records and for the draws of steps."""
    initial, noise, draws = jax.random.split(jax.random.key(seed), 3)
    return initial, noise, draws

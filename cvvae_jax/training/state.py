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

        The average is a copy: donated buffers must not be shared.
        """
        return cls(
            jnp.zeros((), jnp.int32), model, jax.tree.map(jnp.copy, model), optimizer.init(model)
        )

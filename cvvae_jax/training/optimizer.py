"""Optimizers, their schedules, and the average of parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cvvae_jax.config import OptimizerConfig, StageConfig
from cvvae_jax.models.autoencoder import VAE


def learning_rate(config: OptimizerConfig, step: Int[Array, ""], *, steps: int) -> Float[Array, ""]:
    """The learning rate of a step, counted from 0, in a run of so many: a linear warm-up from 0,
    then the schedule."""
    warmup = min(config.warmup_steps, steps - 1)
    floor, period = config.final_fraction, config.period_steps or steps
    done = (step - warmup) / max(1, period - warmup)
    match config.schedule:
        case "constant":
            factor = jnp.ones(())
        case "cosine":
            factor = floor + (1 - floor) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(done, 1.0)))
        case "cosine_unclamped":
            factor = floor + (1 - floor) * 0.5 * (1 + jnp.cos(jnp.pi * done))
    return config.learning_rate * jnp.where(step < warmup, step / max(1, warmup), factor)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW with global-norm clipping, without its learning rate: the schedule counts the run's
    steps, and the optimizer only the updates of its network."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay),
    )


@dataclasses.dataclass(frozen=True)
class Optimizers:
    """One for each of the two networks."""

    vae: optax.GradientTransformation
    gan: optax.GradientTransformation

    @classmethod
    def create(cls, stage: StageConfig) -> "Optimizers":
        """As a stage wants them."""
        return cls(make_optimizer(stage.optimizer), make_optimizer(stage.gan_optimizer))


def updated(
    optimizer: optax.GradientTransformation,
    grads: Any,
    opt_state: Any,
    params: Any,
    rate: Float[Array, ""],
) -> tuple[Any, Any, Float[Array, ""]]:
    """Parameters and moments after an update, and the update's global norm."""
    updates, opt_state = optimizer.update(grads, opt_state, params)
    updates = jax.tree.map(lambda update: -rate * update, updates)
    return optax.apply_updates(params, updates), opt_state, optax.tree.norm(updates)


def update_average(average: VAE, model: VAE, updates: Int[Array, ""], *, decay: float) -> VAE:
    """The average after one more of so many updates, with a decay that starts small:
    min(decay, (1 + updates) / (10 + updates))."""
    decay = jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))
    return jax.tree.map(lambda a, p: (a + (1.0 - decay) * (p - a)).astype(a.dtype), average, model)


def count_updates(opt_state: Any) -> Int[Array, ""]:
    """Updates of a network so far, as its optimizer counted them."""
    return optax.tree.get(opt_state, "count")

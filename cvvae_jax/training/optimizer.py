"""The optimizer, its schedule, and the average of parameters."""

import jax
import jax.numpy as jnp
import optax

from cvvae_jax.config import OptimizerConfig
from cvvae_jax.models.autoencoder import VAE


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up, then cosine decay to `final_fraction` of the peak at the last step."""
    warmup = min(config.warmup_steps, steps - 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=steps,
        end_value=config.learning_rate * config.final_fraction,
    )


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """AdamW with global-norm clipping, for a run of so many steps."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            make_schedule(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        ),
    )


def update_average(average: VAE, model: VAE, step: jax.Array, *, decay: float) -> VAE:
    """The average after a step, with a decay that starts small: min(decay, (1 + step) / (10 +
    step))."""
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: (a + (1.0 - decay) * (p - a)).astype(a.dtype), average, model)

"""The state of training: what a checkpoint holds, its optimizers, and what never changes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cvvae_jax.config import OptimizerConfig, StageConfig
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.discriminator import Discriminator


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogScales:
    """Learned logarithms of the errors' scales, float32 each."""

    recon: Any
    """Of the reconstruction."""
    compat: Any
    """Of the image decoder's view."""

    @classmethod
    def create(cls, value: float) -> "LogScales":
        """Both at one value."""
        return cls(*(jnp.full((), value, jnp.float32) for _ in range(2)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogitMeans:
    """Running averages of the discriminator's logits, for LeCAM, float32 each."""

    real: Any
    fake: Any

    @classmethod
    def create(cls) -> "LogitMeans":
        """Both zero."""
        return cls(*(jnp.zeros((), jnp.float32) for _ in range(2)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guard:
    """What was done about losses and gradients that were no numbers; int32 each."""

    skipped: Any
    """Updates skipped since the run began."""
    vae_in_a_row: Any
    """Updates of the VAE skipped since the last one that was not."""
    gan_in_a_row: Any
    """The same of the discriminator."""
    rollbacks: Any
    """How often the run went back to an earlier checkpoint."""
    data_offset: Any
    """Batches left out by that: step n trains on batch n + data_offset."""

    @property
    def in_a_row(self) -> Any:
        """Of the network that has more of them."""
        return jnp.maximum(self.vae_in_a_row, self.gan_in_a_row)

    @classmethod
    def create(cls) -> "Guard":
        """Nothing skipped."""
        return cls(*(jnp.zeros((), jnp.int32) for _ in range(5)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes; a pytree."""

    step: Any
    """Steps done, int32; with the guard's offset also the position in the data."""

    model: VAE
    """The network being trained."""
    log_scales: LogScales
    """Trained with it."""
    opt_state: Any
    """The moments of both."""

    discriminator: Any
    """The Discriminator that is trained against it, None without a GAN."""
    gan_opt_state: Any
    """Its moments."""
    averages: LogitMeans
    """Of its logits."""

    ema: VAE
    """The model's exponentially averaged parameters."""
    guard: Guard
    """Skipped updates."""

    @classmethod
    def create(
        cls,
        model: VAE,
        discriminator: Discriminator | None,
        optimizers: Optimizers,
        *,
        log_scale: float,
    ) -> "TrainState":
        """The state before the first step.

        The average is a copy, since donated buffers must not be shared, and float32, since steps of
        an average are smaller than half precision resolves.
        """
        log_scales = LogScales.create(log_scale)
        return cls(
            step=jnp.zeros((), jnp.int32),
            model=model,
            log_scales=log_scales,
            opt_state=optimizers.vae.init((model, log_scales)),
            discriminator=discriminator,
            gan_opt_state=optimizers.gan.init(discriminator),
            averages=LogitMeans.create(),
            ema=jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), model),
            guard=Guard.create(),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    """Networks that training looks at and never changes; None where it needs none."""

    image_vae: Any = None
    """The ImageVAE to be compatible with."""
    lpips: Any = None
    """The LPIPS network."""


@dataclasses.dataclass(frozen=True)
class RandomKeys:
    """Independent random keys of a run."""

    init: jax.Array
    """Of the model's first parameters."""
    discriminator: jax.Array
    """Of the discriminator's."""
    noise: jax.Array
    """Of the posterior's noise, with a record's seed."""
    image_noise: jax.Array
    """Of the image VAE's posterior's."""
    steps: jax.Array
    """Of what is drawn once a step."""

    @classmethod
    def create(cls, seed: int) -> "RandomKeys":
        """The keys of a seed."""
        return cls(*jax.random.split(jax.random.key(seed), 5))

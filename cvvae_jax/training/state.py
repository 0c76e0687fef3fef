"""The state of training: what a checkpoint holds, what is fixed, and how an update changes it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from cvvae_jax.config import OptimizerConfig, StageConfig
from cvvae_jax.losses import lecam_average
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.training.packing import Packed
from cvvae_jax.training.trainable import checksums, merged, partition

StepMetrics = dict[str, Array]
"""The metrics of a step by name, scalars on the devices."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogScales:
    """Learned logarithms of the scales of errors; float32 scalars."""

    recon: Any
    """Log-scale of the reconstruction's errors."""
    compat: Any
    """Log-scale of the errors of the image decoder's view."""

    @classmethod
    def create(cls, value: float) -> "LogScales":
        """Both at one value."""
        return cls(*(jnp.full((), value, jnp.float32) for _ in range(2)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogitMeans:
    """Running means of the discriminator's logits, for LeCAM; float32 scalars."""

    real: Any
    """Mean logit of real videos."""
    fake: Any
    """Mean logit of reconstructions."""

    @classmethod
    def create(cls) -> "LogitMeans":
        """Both zero."""
        return cls(*(jnp.zeros((), jnp.float32) for _ in range(2)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guard:
    """Counts of updates that were skipped since a loss or gradient was not finite; int32
    scalars."""

    skipped: Any
    """Updates skipped since the run began."""
    vae_in_a_row: Any
    """Updates of the VAE skipped since the last one that was done."""
    gan_in_a_row: Any
    """Updates of the discriminator skipped since the last one that was done."""
    rollbacks: Any
    """How often the run went back to an earlier checkpoint."""
    data_offset: Any
    """Batches left out by going back: step n trains on batch n + data_offset."""

    @property
    def in_a_row(self) -> Any:
        """The larger of the two counts in a row."""
        return jnp.maximum(self.vae_in_a_row, self.gan_in_a_row)

    @classmethod
    def create(cls) -> "Guard":
        """All zero."""
        return cls(*(jnp.zeros((), jnp.int32) for _ in range(5)))


@dataclasses.dataclass(frozen=True)
class Optimizers:
    """One optimizer for each of the two networks."""

    vae: optax.GradientTransformation
    gan: optax.GradientTransformation

    @classmethod
    def create(cls, stage: StageConfig) -> "Optimizers":
        """The optimizers that a stage's settings describe."""
        return cls(make_optimizer(stage.optimizer), make_optimizer(stage.gan_optimizer))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes; a pytree."""

    step: Any
    """Steps done, int32. With the guard's offset it is also the position in the data."""
    model: VAE | Packed
    """The VAE that is trained; while an update changes it, its trainable part alone."""
    log_scales: LogScales
    """Trained with the VAE, by the same optimizer."""
    opt_state: Any
    """Moments of the VAE's trainable part and of the log-scales."""
    discriminator: Any
    """The Discriminator, None without a GAN."""
    gan_opt_state: Any
    """Moments of the discriminator."""
    averages: LogitMeans
    """Running means of the discriminator's logits."""
    ema: VAE | Packed
    """The exponentially averaged parameters of the VAE's trainable part (see `averaged`)."""
    guard: Guard
    """Counts of skipped updates."""
    frozen_checksums: Any = None
    """`checksums` of the VAE's frozen parameters at the first step; None where there are none."""

    @classmethod
    def create(
        cls,
        model: VAE,
        discriminator: Discriminator | None,
        optimizers: Optimizers,
        *,
        log_scale: float,
        trainable: str = "all",
    ) -> "TrainState":
        """The state before the first step; `trainable` is that of `StageConfig`.

        The averaged parameters are a copy, since donated buffers must not be shared. They are
        float32, since half precision can't resolve the small steps of an average.
        """
        log_scales = LogScales.create(log_scale)
        trained, _ = partition(model, trainable)
        return cls(
            step=jnp.zeros((), jnp.int32),
            model=model,
            log_scales=log_scales,
            opt_state=optimizers.vae.init((trained, log_scales)),
            discriminator=discriminator,
            gan_opt_state=optimizers.gan.init(discriminator),
            averages=LogitMeans.create(),
            ema=jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), trained),
            guard=Guard.create(),
            frozen_checksums=checksums(model, trainable),
        )

    @property
    def averaged(self) -> VAE:
        """The whole VAE with averaged parameters, in float32, which is evaluated and used. Frozen
        ones are their own average, in the memory of `model`."""
        return jax.tree.map(lambda x: x.astype(jnp.float32), merged(self.ema, self.model))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainedNetworks:
    """The networks that a step trains, or the gradients of what is trained; None for the others."""

    model: VAE | Packed | None
    log_scales: LogScales | None
    discriminator: Discriminator | Packed | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Term:
    """A term that a caller adds to the objective of the VAE."""

    function: Callable[..., Any] = dataclasses.field(metadata={"static": True})
    """Takes the VAE's `objective.Outputs` for a batch and the video (b, t, h, w, 3) in [-1, 1], and
    returns a scalar: a mean over the clips, since a batch may be computed in parts. A term with a
    network takes it first. Where frames are split over devices, it sees the device's own rows (see
    `split_frames`)."""
    weight: float = dataclasses.field(default=1.0, metadata={"static": True})
    """What the scalar is multiplied by. The metric `loss/NAME` is the scalar without it."""
    network: Any = None
    """A network that is not trained: any pytree of arrays."""

    def __call__(self, *arguments: Any) -> Any:
        """The scalar, without its weight."""
        network = () if self.network is None else (self.network,)
        return self.function(*network, *arguments)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    """What the objective needs beside the trained networks, and what is never trained."""

    image_vae: Any = None
    """The ImageVAE to be compatible with; None where the objective needs none."""
    lpips: Any = None
    """The LPIPS network; None where the objective needs none."""
    terms: Mapping[str, Term] = dataclasses.field(default_factory=dict)
    """Terms that a caller adds, by the name of their metric after `loss/`."""


@dataclasses.dataclass(frozen=True)
class RandomKeys:
    """The independent random keys of a run."""

    init: jax.Array
    """Initializes the model's parameters."""
    discriminator: jax.Array
    """Initializes the discriminator's parameters."""
    noise: jax.Array
    """With a record's seed, draws the noise of the video VAE's posterior."""
    image_noise: jax.Array
    """With a record's seed, draws the noise of the image VAE's posterior."""
    steps: jax.Array
    """With the step's number, draws what all records of a step share."""

    @classmethod
    def create(cls, seed: int) -> "RandomKeys":
        """The keys that a seed determines."""
        return cls(*jax.random.split(jax.random.key(seed), 5))


def learning_rate(config: OptimizerConfig, step: Int[Array, ""], *, steps: int) -> Float[Array, ""]:
    """The learning rate of a step, counted from 0, in a run of `steps`: a linear warm-up from 0,
    then the schedule."""
    peak, floor = config.learning_rate, config.final_fraction
    warmup = min(config.warmup_steps, steps - 1)
    decay_steps = max(1, (config.period_steps or steps) - warmup)

    def unclamped(count):
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * count / decay_steps))
        return peak * (floor + (1 - floor) * cosine)

    match config.schedule:
        case "constant":
            schedule = optax.constant_schedule(peak)
        case "cosine":
            schedule = optax.cosine_decay_schedule(peak, decay_steps, alpha=floor)
        case "cosine_unclamped":
            schedule = unclamped
    if warmup:
        rise = optax.linear_schedule(0.0, peak, warmup)
        schedule = optax.join_schedules([rise, schedule], [warmup])
    return jnp.asarray(schedule(step), jnp.float32)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW with global-norm clipping, without a learning rate: the schedule counts the run's
    steps, while the optimizer counts only the updates of its network."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay),
    )


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


def update_average(average: Any, model: Any, updates: Int[Array, ""], *, decay: float) -> Any:
    """The averaged parameters after one more update than `updates`. The decay starts small, at
    min(decay, (1 + updates) / (10 + updates))."""
    decay = jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))
    return optax.incremental_update(model, average, 1.0 - decay)


def count_updates(opt_state: Any) -> Int[Array, ""]:
    """Updates of a network so far, as its optimizer counts them."""
    return optax.tree.get(opt_state, "count")


def updated_vae(
    state: TrainState, grads: TrainedNetworks, stage: StageConfig
) -> tuple[TrainState, StepMetrics]:
    """The state after an update of the VAE, its log-scales and its average, and metrics of it."""
    rate = learning_rate(stage.optimizer, state.step, steps=stage.steps)
    params, gradient = (state.model, state.log_scales), (grads.model, grads.log_scales)
    optimizer = Optimizers.create(stage).vae
    before = count_updates(state.opt_state)
    (model, log_scales), opt_state, norm = updated(
        optimizer, gradient, state.opt_state, params, rate
    )
    ema = update_average(state.ema, model, before, decay=stage.ema_decay)
    metrics = {
        "norm/generator": optax.tree.norm(gradient),
        "norm/generator_update": norm,
        "learning_rate/generator": rate,
        "log_scale/recon": state.log_scales.recon,
        "log_scale/compat": state.log_scales.compat,
    }
    replaced = {"model": model, "log_scales": log_scales, "opt_state": opt_state, "ema": ema}
    return dataclasses.replace(state, **replaced), metrics


def updated_discriminator(
    state: TrainState,
    grads: TrainedNetworks,
    stage: StageConfig,
    *,
    logits: tuple[Float[Array, ""], Float[Array, ""]],
) -> tuple[TrainState, StepMetrics]:
    """The state after an update of the discriminator and of the running means of its logits, whose
    means in this batch are `logits`, real and fake; and metrics of the update."""
    rate = learning_rate(stage.gan_optimizer, state.step, steps=stage.steps)
    discriminator, opt_state, norm = updated(
        Optimizers.create(stage).gan,
        grads.discriminator,
        state.gan_opt_state,
        state.discriminator,
        rate,
    )
    metrics = {
        "norm/discriminator": optax.tree.norm(grads.discriminator),
        "norm/discriminator_update": norm,
        "learning_rate/discriminator": rate,
    }
    before = (state.averages.real, state.averages.fake)
    averages = LogitMeans(*map(lecam_average, before, logits))
    replaced = {
        "discriminator": discriminator,
        "gan_opt_state": opt_state,
        "averages": averages,
    }
    return dataclasses.replace(state, **replaced), metrics


def updated_guard(
    guard: Guard, finite: Bool[Array, ""], *, vae: bool, discriminator: bool
) -> Guard:
    """The counts after a step that trained the named networks: an update that was not finite counts
    as skipped, a finite one ends the row."""
    bad = 1 - finite.astype(jnp.int32)
    new = {"skipped": guard.skipped + bad}
    if vae:
        new["vae_in_a_row"] = (guard.vae_in_a_row + 1) * bad
    if discriminator:
        new["gan_in_a_row"] = (guard.gan_in_a_row + 1) * bad
    return dataclasses.replace(guard, **new)

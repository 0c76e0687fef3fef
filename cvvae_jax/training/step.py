"""One training step, a pure function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jaxtyping import Array, Bool, UInt8

from cvvae_jax import sharding
from cvvae_jax.config import LossConfig, StageConfig
from cvvae_jax.losses import adaptive_weight, lecam_average
from cvvae_jax.models.inputs import to_float
from cvvae_jax.training.gradients import (
    Batch,
    TrainedNetworks,
    Update,
    gradients,
    last_layer_gradients,
)
from cvvae_jax.training.objective import Draws, StepMetrics
from cvvae_jax.training.state import (
    Frozen,
    Guard,
    LogitMeans,
    Optimizers,
    RandomKeys,
    TrainState,
    count_updates,
    learning_rate,
    update_average,
    updated,
)


def update_of(step: int, stage: StageConfig, loss: LossConfig) -> Update:
    """What a step trains, steps counted from 0."""
    if loss.gan == "none" or step < loss.gan_start_step:
        return "plain"
    if stage.updates == "joint":
        return "joint"
    return "discriminator" if step % 2 else "generator"


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    frozen: Frozen,
    *,
    update: Update,
    stage: StageConfig,
    loss: LossConfig,
    seed: int,
) -> tuple[TrainState, StepMetrics]:
    """The state after one batch, and what is logged of it.

    `batch` holds `video`, uint8 (b, t, h, w, 3), and `seed`, uint32 (b,), which keys what is random
    about a record, so that it depends neither on the record's place in the batch nor on the number
    of devices. An update whose loss or gradient is not finite is skipped.
    """
    draws = Draws.create(
        state.model,
        RandomKeys.create(seed),
        batch["seed"],
        state.step,
        video_shape=batch["video"].shape,
    )
    grads, metrics = accumulated_gradients(
        state, batch["video"], draws, frozen, update=update, stage=stage, loss=loss
    )
    new = state
    if update != "discriminator":
        new, parts = _updated_vae(new, grads, stage)
        metrics |= parts
    if update in ("discriminator", "joint"):
        new, parts = _updated_discriminator(new, grads, stage)
        new = dataclasses.replace(new, averages=_new_averages(state.averages, metrics))
        metrics |= parts
    finite = jnp.all(jnp.stack([jnp.isfinite(value) for value in metrics.values()]))
    new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
    guard = _new_guard(state.guard, finite, update)
    metrics |= {f"guard/{f.name}": getattr(guard, f.name) for f in dataclasses.fields(guard)}
    return dataclasses.replace(new, step=state.step + 1, guard=guard), metrics


def accumulated_gradients(
    state: TrainState,
    video: UInt8[Array, "b t h w 3"],
    draws: Draws,
    frozen: Frozen,
    *,
    update: Update,
    stage: StageConfig,
    loss: LossConfig,
) -> tuple[TrainedNetworks, StepMetrics]:
    """Gradients of a batch, taken in `stage.accumulate` parts, and what is logged of it.

    The adaptive weight is a ratio of the whole batch's gradients, so that parts need a forward pass
    more: the first for the gradients at the last layer, the second for all others.
    """
    networks = TrainedNetworks(state.model, state.log_scales, state.discriminator)
    networks, frozen = sharding.gathered((networks, frozen))
    shared = {"loss": loss, "remat": stage.remat}

    def last_layer(part: Batch):
        return last_layer_gradients(networks, part, frozen, **shared)

    def whole(part: Batch):
        grads, metrics = gradients(
            networks,
            state.averages,
            part,
            frozen,
            update=update,
            adaptive_weight=weight,
            **shared,
        )
        return sharding.gathered(grads), metrics

    weight = None
    if stage.accumulate == 1:
        return whole(Batch(to_float(video), draws))
    if update in ("generator", "joint"):
        parts = _mean_over_parts(last_layer, video, draws, count=stage.accumulate)
        weight = adaptive_weight(*parts)
    return _mean_over_parts(whole, video, draws, count=stage.accumulate)


def _mean_over_parts(
    function: Callable[[Batch], Any], video: UInt8[Array, "b t h w 3"], draws: Draws, *, count: int
) -> Any:
    """The mean of a function's results for equal parts of a batch, one part at a time.

    A part takes every `count`-th record, so that every device has its share of each.
    """
    rows = (video, draws.noise, draws.image_noise)
    rows = tuple(rearrange(records, "(b k) ... -> k b ...", k=count) for records in rows)

    def part(row):
        video, noise, image_noise = row
        return function(Batch(to_float(video), Draws(noise, image_noise, draws.offsets)))

    def add(total, row):
        return jax.tree.map(jnp.add, total, part(row)), None

    shapes = jax.eval_shape(part, tuple(records[0] for records in rows))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, rows)
    return jax.tree.map(lambda x: x / count, total)


def _updated_vae(
    state: TrainState, grads: TrainedNetworks, stage: StageConfig
) -> tuple[TrainState, StepMetrics]:
    """The VAE, its log-scales and its average after an update."""
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


def _updated_discriminator(
    state: TrainState, grads: TrainedNetworks, stage: StageConfig
) -> tuple[TrainState, StepMetrics]:
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
    state = dataclasses.replace(state, discriminator=discriminator, gan_opt_state=opt_state)
    return state, metrics


def _new_averages(averages: LogitMeans, metrics: StepMetrics) -> LogitMeans:
    return LogitMeans(
        lecam_average(averages.real, metrics["gan/logits_real"]),
        lecam_average(averages.fake, metrics["gan/logits_fake"]),
    )


def _new_guard(guard: Guard, finite: Bool[Array, ""], update: Update) -> Guard:
    """One more skipped update of the networks that the step trains, or none in a row any more."""
    bad = 1 - finite.astype(jnp.int32)
    new = {"skipped": guard.skipped + bad}
    if update != "discriminator":
        new["vae_in_a_row"] = (guard.vae_in_a_row + 1) * bad
    if update in ("discriminator", "joint"):
        new["gan_in_a_row"] = (guard.gan_in_a_row + 1) * bad
    return dataclasses.replace(guard, **new)

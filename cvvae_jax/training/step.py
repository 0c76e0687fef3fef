"""One training step, a pure function: the gradients of a batch, then the updates of the networks.

One backward pass goes through the VAE, whatever terms the objective has. The GAN's adaptive weight
is a ratio of gradients at the decoder's last layer. So the losses are first differentiated with
respect to the reconstruction; the two gradients, with and without the GAN, go through the last
layer alone, which yields the weight; and their weighted sum goes back through the whole VAE. The
result equals the official code's, which differentiates the VAE once for each of the two and once
for the sum.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, UInt8

from cvvae_jax import losses, sharding
from cvvae_jax.config import LossConfig, Remat, StageConfig
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.models.inputs import to_float
from cvvae_jax.training import objective
from cvvae_jax.training.discriminator_pass import DiscriminatorPass
from cvvae_jax.training.objective import Batch, Draws, Outputs
from cvvae_jax.training.packing import packed, unpacked
from cvvae_jax.training.state import (
    Frozen,
    LogitMeans,
    LogScales,
    RandomKeys,
    StepMetrics,
    TrainedNetworks,
    TrainState,
    updated_discriminator,
    updated_guard,
    updated_vae,
)
from cvvae_jax.training.trainable import merged, partition, trains_encoder

Update = Literal["plain", "generator", "discriminator", "joint"]
"""The networks that a step trains: the VAE without a GAN, the VAE against the discriminator, the
discriminator, or both networks."""


def update_of(step: int, stage: StageConfig, loss: LossConfig) -> Update:
    """The networks that a step trains; steps count from 0."""
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
    """Trains on one batch; an update whose loss or gradient is not finite is skipped.

    Args:
        state: the state before the step.
        batch: `video`, uint8 (b, t, h, w, 3), and `seed`, uint32 (b,). A record's seed determines
            its noise, which depends neither on its place in the batch nor on the devices.
        frozen: the networks that the objective needs and that are not trained.
        update: the networks to train.
        stage: the stage's settings.
        loss: the objective's settings.
        seed: the run's.

    Returns:
        The state after the step, and the step's metrics.
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
    trained, kept = partition(state.model, stage.trainable)
    networks = tuple(net for net in (trained, state.discriminator) if net is not None)
    before, grads = packed((dataclasses.replace(state, model=trained), grads), networks)
    new = before
    if update != "discriminator":
        new, parts = updated_vae(new, grads, stage)
        metrics |= parts
    if update in ("discriminator", "joint"):
        logits = metrics["gan/logits_real"], metrics["gan/logits_fake"]
        new, parts = updated_discriminator(new, grads, stage, logits=logits)
        metrics |= parts
    finite = jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))
    new = unpacked(jax.tree.map(functools.partial(jnp.where, finite), new, before))
    new = dataclasses.replace(new, model=merged(new.model, kept))
    guard = updated_guard(
        state.guard,
        finite,
        vae=update != "discriminator",
        discriminator=update in ("discriminator", "joint"),
    )
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
    """The gradients of a batch, computed in `stage.accumulate` parts, and the batch's metrics.

    The adaptive weight is a ratio of the whole batch's gradients. So in parts every record goes
    forward twice: once for the gradients at the last layer, once for all others.
    """
    networks = TrainedNetworks(state.model, state.log_scales, state.discriminator)
    networks, frozen = sharding.gathered((networks, frozen))
    shared = {"loss": loss, "remat": stage.remat, "trainable": stage.trainable}

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
        weight = losses.adaptive_weight(*parts)
    return _mean_over_parts(whole, video, draws, count=stage.accumulate)


def _mean_over_parts(
    function: Callable[[Batch], Any], video: UInt8[Array, "b t h w 3"], draws: Draws, *, count: int
) -> Any:
    """The mean of a function's results for equal parts of a batch, one part at a time.

    A part takes every `count`-th record, so that every device has an equal share of it.
    """
    records = (video, draws.noise, draws.image_noise)
    records = tuple(rearrange(array, "(b k) ... -> k b ...", k=count) for array in records)

    def result(part):
        video, noise, image_noise = part
        return function(Batch(to_float(video), Draws(noise, image_noise, draws.offsets)))

    def add(total, part):
        return jax.tree.map(jnp.add, total, result(part)), None

    shapes = jax.eval_shape(result, tuple(array[0] for array in records))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, records)
    return jax.tree.map(lambda x: x / count, total)


def gradients(
    networks: TrainedNetworks,
    averages: LogitMeans,
    batch: Batch,
    frozen: Frozen,
    *,
    update: Update,
    loss: LossConfig,
    remat: Remat,
    trainable: str = "all",
    adaptive_weight: Float[Array, ""] | None = None,
) -> tuple[TrainedNetworks, StepMetrics]:
    """The gradients of the networks that `update` trains, of the VAE those of its trainable part,
    and the batch's metrics.

    The adaptive weight is computed unless it is given, as it is for one part of a batch.
    """
    shared = {"loss": loss, "remat": remat, "trainable": trainable}
    reference = _image_posterior(networks.model, batch, frozen, loss)
    outputs, hiddens, pullback = _forward(networks.model, batch, reference, **shared)
    metrics, vae_grads, log_scale_grads, discriminator_grads = {}, None, None, None
    if update != "plain":
        judged = DiscriminatorPass.create(networks.discriminator, outputs.recons, remat=remat)
    if update in ("discriminator", "joint"):
        discriminator_grads, parts = judged.discriminator_gradients(
            networks.discriminator, batch.video, averages, loss=loss, remat=remat
        )
        metrics |= parts
    if update != "discriminator":
        cotangent, log_scale_grads, total, parts = _cotangent(
            outputs, networks, batch, frozen, reference=reference, **shared
        )
        metrics |= parts
        if update != "plain":
            gan_loss, gan_cotangent = judged.vae_cotangent()
            if adaptive_weight is None:
                adaptive_weight = losses.adaptive_weight(
                    *_last_layer(networks.model, hiddens, cotangent, gan_cotangent)
                )
            weight = loss.gan_weight * adaptive_weight
            cotangent = _weighted_sum(cotangent, gan_cotangent, weight)
            total += weight * gan_loss
            metrics |= {
                "loss/gan_g": gan_loss,
                "gan/adaptive_weight": weight,
                "gan/logits_fake": objective.mean_logit(judged.logits),
            }
        (vae_grads,) = pullback(cotangent)
        metrics["loss/total"] = total
    return TrainedNetworks(vae_grads, log_scale_grads, discriminator_grads), metrics


def last_layer_gradients(
    networks: TrainedNetworks,
    batch: Batch,
    frozen: Frozen,
    *,
    loss: LossConfig,
    remat: Remat,
    trainable: str = "all",
) -> tuple[Array, Array]:
    """The gradients of the objective without its GAN term, and of the GAN term, at the kernel of
    the decoder's last layer, of which a batch in parts makes its adaptive weight."""
    shared = {"loss": loss, "remat": remat, "trainable": trainable}
    reference = _image_posterior(networks.model, batch, frozen, loss)
    outputs, hiddens, _ = _forward(networks.model, batch, reference, **shared)
    cotangent, *_ = _cotangent(outputs, networks, batch, frozen, reference=reference, **shared)
    judged = DiscriminatorPass.create(networks.discriminator, outputs.recons, remat=remat)
    return _last_layer(networks.model, hiddens, cotangent, judged.vae_cotangent()[1])


def _image_posterior(
    model: VAE, batch: Batch, frozen: Frozen, loss: LossConfig
) -> DiagonalGaussian | None:
    return objective.image_posterior(
        batch.video,
        batch.draws,
        frozen,
        loss=loss,
        temporal_compression=model.temporal_compression,
    )


def _forward(
    model: VAE,
    batch: Batch,
    reference: DiagonalGaussian | None,
    *,
    loss: LossConfig,
    remat: Remat,
    trainable: str,
):
    """The VAE's outputs, the inputs of its last layer, and the backward pass to its trainable part
    as a function."""
    from_images = objective.image_latents(reference, batch.draws, loss=loss)

    trained, kept = partition(model, trainable)

    def run(trained):
        whole = merged(trained, kept)
        return objective.generate(whole, batch.video, batch.draws.noise, from_images, remat=remat)

    outputs, pullback, hiddens = jax.vjp(run, trained, has_aux=True)
    return outputs, hiddens, pullback


def _cotangent(
    outputs: Outputs,
    networks: TrainedNetworks,
    batch: Batch,
    frozen: Frozen,
    *,
    reference: DiagonalGaussian | None,
    loss: LossConfig,
    remat: Remat,
    trainable: str,
) -> tuple[Outputs, LogScales, Float[Array, ""], StepMetrics]:
    """The gradients of the objective without its GAN term, with respect to the VAE's outputs and
    the log-scales; its value, and its metrics. Where the encoder is frozen, the gradients with
    respect to what it puts out are zero, and nothing is computed for them."""

    def value(outputs, log_scales):
        if not trains_encoder(networks.model, trainable):
            outputs = objective.without_encoder_gradients(outputs)
        return objective.vae_objective(
            outputs,
            log_scales,
            batch.video,
            batch.draws,
            frozen,
            reference=reference,
            loss=loss,
            temporal_compression=networks.model.temporal_compression,
            remat=remat,
        )

    (total, metrics), grads = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(
        outputs, networks.log_scales
    )
    return *grads, total, metrics


def _last_layer(
    model: VAE, hiddens: tuple[Array, ...], cotangent: Outputs, gan_cotangent: tuple[Array, ...]
) -> tuple[Array, Array]:
    """The gradients at the last layer's kernel that two gradients of the reconstructions yield."""

    def last(layer):
        return tuple(layer(hidden) for hidden in hiddens)

    _, pullback = jax.vjp(last, model.decoder.conv_out)
    return tuple(pullback(c)[0].kernel[...] for c in (cotangent.recons, gan_cotangent))


def _weighted_sum(
    cotangent: Outputs, gan_cotangent: tuple[Array, ...], weight: Float[Array, ""]
) -> Outputs:
    pairs = zip(cotangent.recons, gan_cotangent, strict=True)
    summed = tuple((nll + weight * gan).astype(nll.dtype) for nll, gan in pairs)
    return dataclasses.replace(cotangent, recons=summed)

"""Gradients of a batch: one backward pass through the VAE, whatever terms are on.

The GAN's adaptive weight is a ratio of gradients at the decoder's last layer. Losses are
differentiated with respect to the reconstruction first; both gradients then go through the last
layer alone, which gives the weight; their weighted sum goes back through the whole VAE once. That
equals differentiating the VAE once for the weight, once more for it, and once for the sum, as the
official code does.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cvvae_jax import losses, split_frames
from cvvae_jax.config import LossConfig, Remat
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.training.objective import (
    Draws,
    Metrics,
    Outputs,
    generate,
    image_latents,
    negative_elbo,
)
from cvvae_jax.training.state import Averages, Frozen, LogScales

Update = Literal["plain", "generator", "discriminator", "joint"]
"""What a step trains: the VAE without a GAN, the VAE against the discriminator, the discriminator,
or both networks."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Networks:
    """What is trained, or its gradients; None for what a step leaves alone."""

    model: VAE | None
    log_scales: LogScales | None
    discriminator: Discriminator | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Videos in [-1, 1] and all that is random about them."""

    video: Float[Array, "b t h w 3"]
    draws: Draws


def gradients(
    networks: Networks,
    averages: Averages,
    batch: Batch,
    frozen: Frozen,
    *,
    update: Update,
    loss: LossConfig,
    remat: Remat,
    adaptive_weight: Float[Array, ""] | None = None,
) -> tuple[Networks, Metrics]:
    """Gradients of the networks that `update` trains, and what is logged of the batch.

    `adaptive_weight` is computed unless it is given, as it is where this is one part of a batch.
    """
    outputs, hiddens, pullback = _forward(networks.model, batch, frozen, loss=loss, remat=remat)
    metrics, vae_grads, log_scale_grads, discriminator_grads = {}, None, None, None
    if update != "plain":
        judged = _Judged.create(networks.discriminator, outputs.recons, remat=remat)
    if update in ("discriminator", "joint"):
        discriminator_grads, parts = judged.discriminator_gradients(
            networks.discriminator, batch.video, averages, loss=loss, remat=remat
        )
        metrics |= parts
    if update != "discriminator":
        cotangent, log_scale_grads, total, parts = _elbo_cotangent(
            outputs, networks, batch, frozen, loss=loss, remat=remat
        )
        metrics |= parts
        if update != "plain":
            gan_loss, gan_cotangent = judged.generator_cotangent()
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
                "gan/logits_fake": judged.mean(),
            }
        (vae_grads,) = pullback(cotangent)
        metrics["loss/total"] = total
    return Networks(vae_grads, log_scale_grads, discriminator_grads), metrics


def last_layer_gradients(
    networks: Networks, batch: Batch, frozen: Frozen, *, loss: LossConfig, remat: Remat
) -> tuple[Array, Array]:
    """Gradients of the objective without its GAN term, and of that term, at the kernel of the
    decoder's last layer: what the adaptive weight of a batch in parts is made of."""
    outputs, hiddens, _ = _forward(networks.model, batch, frozen, loss=loss, remat=remat)
    cotangent, *_ = _elbo_cotangent(outputs, networks, batch, frozen, loss=loss, remat=remat)
    judged = _Judged.create(networks.discriminator, outputs.recons, remat=remat)
    return _last_layer(networks.model, hiddens, cotangent, judged.generator_cotangent()[1])


def _forward(model: VAE, batch: Batch, frozen: Frozen, *, loss: LossConfig, remat: Remat):
    """Outputs, what the last layer saw, and the way back from the outputs' gradient."""
    from_images = image_latents(
        batch.video,
        batch.draws,
        frozen,
        loss=loss,
        temporal_compression=model.temporal_compression,
    )

    def run(model):
        return generate(model, batch.video, batch.draws.noise, from_images, remat=remat)

    outputs, pullback, hiddens = jax.vjp(run, model, has_aux=True)
    return outputs, hiddens, pullback


def _elbo_cotangent(
    outputs: Outputs,
    networks: Networks,
    batch: Batch,
    frozen: Frozen,
    *,
    loss: LossConfig,
    remat: Remat,
) -> tuple[Outputs, LogScales, Float[Array, ""], Metrics]:
    """Gradients of the objective without its GAN term, with respect to the outputs and the
    log-scales; its value and parts."""

    def objective(outputs, log_scales):
        return negative_elbo(
            outputs,
            log_scales,
            batch.video,
            batch.draws,
            frozen,
            loss=loss,
            temporal_compression=networks.model.temporal_compression,
            remat=remat,
        )

    (total, metrics), grads = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)(
        outputs, networks.log_scales
    )
    return *grads, total, metrics


def _last_layer(
    model: VAE, hiddens: tuple[Array, ...], cotangent: Outputs, gan_cotangent: tuple[Array, ...]
) -> tuple[Array, Array]:
    """The kernel's gradients for two gradients of the reconstructions."""

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


@dataclasses.dataclass(frozen=True)
class _Judged:
    """The discriminator's logits of the reconstructions, and the way back from their gradient to
    both networks: one forward pass for either or both."""

    logits: tuple[Array, ...]
    pullback: Any

    @classmethod
    def create(
        cls, discriminator: Discriminator, recons: tuple[Array, ...], *, remat: Remat
    ) -> "_Judged":
        def run(discriminator, recons):
            return tuple(_logits(discriminator, recon, remat=remat) for recon in recons)

        return cls(*jax.vjp(run, discriminator, recons))

    def mean(self) -> Float[Array, ""]:
        return _mean(self.logits)

    def generator_cotangent(self) -> tuple[Float[Array, ""], tuple[Array, ...]]:
        """The generator's GAN loss and its gradient with respect to the reconstructions."""
        value, cotangent = jax.value_and_grad(
            lambda logits: sum(map(losses.generator_loss, logits)) / len(logits)
        )(self.logits)
        return value, self.pullback(cotangent)[1]

    def discriminator_gradients(
        self,
        discriminator: Discriminator,
        video: Float[Array, "b t h w 3"],
        averages: Averages,
        *,
        loss: LossConfig,
        remat: Remat,
    ) -> tuple[Discriminator, Metrics]:
        """Gradients of the discriminator's loss, and its parts."""

        def on_fake(logits):
            value = sum(losses.fake_loss(x, kind=loss.gan) for x in logits) / len(logits)
            penalty = jnp.zeros(())
            if loss.gan_penalty == "lecam":
                penalty = sum(losses.lecam_fake(x, averages.real) for x in logits) / len(logits)
            return value + loss.gan_penalty_weight * penalty, (value, penalty)

        def on_real(discriminator):
            logits = _logits(discriminator, video, remat=remat)
            value = losses.real_loss(logits, kind=loss.gan)
            penalty = jnp.zeros(())
            if loss.gan_penalty == "lecam":
                penalty = losses.lecam_real(logits, averages.fake)
            if loss.gan_penalty == "r1":
                penalty = losses.r1_penalty(
                    functools.partial(_logits, discriminator, remat=remat), video
                )
            return value + loss.gan_penalty_weight * penalty, (value, penalty, _mean((logits,)))

        cotangent, (fake, fake_penalty) = jax.grad(on_fake, has_aux=True)(self.logits)
        fake_grads, _ = self.pullback(cotangent)
        real_grads, (real, real_penalty, logits_real) = jax.grad(on_real, has_aux=True)(
            discriminator
        )
        metrics = {
            "loss/gan_d": fake + real,
            "gan/logits_real": logits_real,
            "gan/logits_fake": self.mean(),
        }
        if loss.gan_penalty != "none":
            metrics["loss/gan_penalty"] = fake_penalty + real_penalty
        return jax.tree.map(jnp.add, fake_grads, real_grads), metrics


def _logits(
    discriminator: Discriminator, video: Float[Array, "b t h w 3"], *, remat: Remat
) -> Float[Array, "b t2 h2 w2 1"]:
    """In float32, whatever the discriminator computes in: losses are means of them."""
    return discriminator(video, remat=remat).astype(jnp.float32)


def _mean(logits: tuple[Array, ...]) -> Float[Array, ""]:
    return split_frames.mean_over_devices(sum(x.mean() for x in logits) / len(logits))

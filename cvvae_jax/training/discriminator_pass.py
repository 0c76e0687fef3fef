"""One forward pass of the discriminator over reconstructions, and the gradients that come of it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cvvae_jax.config import LossConfig, Remat
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.training import objective
from cvvae_jax.training.state import LogitMeans, StepMetrics


@dataclasses.dataclass(frozen=True)
class DiscriminatorPass:
    """One forward pass of the discriminator over the reconstructions, which both networks'
    gradients use."""

    logits: tuple[Array, ...]
    """The logits of every reconstruction."""
    pullback: Any
    """Takes the logits' gradient to those of the discriminator and of the reconstructions."""

    @classmethod
    def create(
        cls, discriminator: Discriminator, recons: tuple[Array, ...], *, remat: Remat
    ) -> "DiscriminatorPass":
        def run(discriminator, recons):
            return tuple(objective.discriminate(discriminator, x, remat=remat) for x in recons)

        return cls(*jax.vjp(run, discriminator, recons))

    def vae_cotangent(self) -> tuple[Float[Array, ""], tuple[Array, ...]]:
        """The VAE's GAN loss, and its gradient with respect to the reconstructions."""
        value, cotangent = jax.value_and_grad(objective.gan_loss)(self.logits)
        return value, self.pullback(cotangent)[1]

    def discriminator_gradients(
        self,
        discriminator: Discriminator,
        video: Float[Array, "b t h w 3"],
        averages: LogitMeans,
        *,
        loss: LossConfig,
        remat: Remat,
    ) -> tuple[Discriminator, StepMetrics]:
        """The gradients of the discriminator's loss, and its metrics."""
        of_fake = functools.partial(objective.loss_of_fake, averages=averages, loss=loss)
        cotangent, (fake, fake_penalty) = jax.grad(of_fake, has_aux=True)(self.logits)
        fake_grads, _ = self.pullback(cotangent)
        of_real = functools.partial(
            objective.loss_of_real, video=video, averages=averages, loss=loss, remat=remat
        )
        real_grads, (real, real_penalty, logits_real) = jax.grad(of_real, has_aux=True)(
            discriminator
        )
        metrics = {
            "loss/gan_d": fake + real,
            "gan/logits_real": logits_real,
            "gan/logits_fake": objective.mean_logit(self.logits),
        }
        if loss.gan_penalty != "none":
            metrics["loss/gan_penalty"] = fake_penalty + real_penalty
        return jax.tree.map(jnp.add, fake_grads, real_grads), metrics

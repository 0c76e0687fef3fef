"""The GAN's losses on a discriminator's logits, and the weight that balances them with the rest."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cvvae_jax import rows

# Added to the GAN gradient's norm, and the largest ratio: the official code's.
_EPSILON, _LARGEST_RATIO = 1e-4, 1e4
# How much of its past a running average of logits keeps per update: LeCAM's official code's.
_LECAM_DECAY = 0.999

Kind = Literal["hinge", "vanilla"]


def generator_loss(logits_fake: Float[Array, "..."]) -> Float[Array, ""]:
    """Low where the discriminator takes reconstructions for real; the same for both kinds."""
    return -rows.average(logits_fake.mean())


def real_loss(logits_real: Float[Array, "..."], *, kind: Kind) -> Float[Array, ""]:
    """Low where the discriminator takes real videos for real: half of its loss."""
    logits = -logits_real
    losses = jax.nn.relu(1 + logits) if kind == "hinge" else jax.nn.softplus(logits)
    return 0.5 * rows.average(losses.mean())


def fake_loss(logits_fake: Float[Array, "..."], *, kind: Kind) -> Float[Array, ""]:
    """Low where the discriminator sees through reconstructions: the other half."""
    return real_loss(-logits_fake, kind=kind)


def adaptive_weight(
    nll_gradient: Float[Array, "..."], gan_gradient: Float[Array, "..."]
) -> Float[Array, ""]:
    """How many times longer the gradient of the other losses is than the GAN loss's, both at the
    kernel of the decoder's last layer; in [0, 1e4].

    VQGAN's weight (Esser et al. 2021, "Taming Transformers"), as the official code computes it.
    """
    nll, gan = (jnp.sqrt(jnp.square(g).sum()) for g in (nll_gradient, gan_gradient))
    return jnp.clip(nll / (gan + _EPSILON), 0.0, _LARGEST_RATIO)


def r1_penalty(
    logits: Callable[[Array], Float[Array, "b ..."]], video: Float[Array, "b t h w c"]
) -> Float[Array, ""]:
    """Half the squared length of the gradient of a real video's mean logit with respect to the
    video, averaged over videos.

    Mescheder et al. 2018, "Which training methods for GANs do actually converge?".
    """

    def summed(video):
        out = logits(video)
        return rows.average(out.reshape(len(out), -1).mean(axis=1)).sum()

    squares = jnp.square(jax.grad(summed)(video)).sum(axis=(1, 2, 3, 4))
    return 0.5 * rows.total(squares).mean()


def lecam_real(logits_real: Float[Array, "..."], average_fake: Float[Array, ""]):
    """LeCAM's pull of real logits down to the running average of fake ones.

    Tseng et al. 2021, "Regularizing generative adversarial networks under limited data".
    """
    return rows.average(jnp.square(jax.nn.relu(logits_real - average_fake)).mean())


def lecam_fake(logits_fake: Float[Array, "..."], average_real: Float[Array, ""]):
    """LeCAM's pull of fake logits up to the running average of real ones."""
    return rows.average(jnp.square(jax.nn.relu(average_real - logits_fake)).mean())


def lecam_average(average: Float[Array, ""], logits_mean: Float[Array, ""]) -> Float[Array, ""]:
    """A running average of logits after one more update of the discriminator."""
    return _LECAM_DECAY * average + (1 - _LECAM_DECAY) * logits_mean

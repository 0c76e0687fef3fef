"""The terms of compatibility that compare latents: with those of the frozen image encoder, as they
are, or as the first layers of the frozen image decoder see them."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from cvvae_jax import losses
from cvvae_jax.config import LossConfig, Remat
from cvvae_jax.config.compatibility import named_layers
from cvvae_jax.errors import UserError
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.training.state import StepMetrics


def trains_on_image_latents(loss: LossConfig) -> bool:
    """Whether the video decoder also trains on the image encoder's latents."""
    return loss.compat_terms.get("encoder", 0) > 0


def compares_latents(loss: LossConfig) -> bool:
    """Whether the objective has a term on the distance from the image encoder's latents."""
    return bool({"latent", "features"} & loss.compat_terms.keys())


def check_layers(image_vae: ImageVAE, loss: LossConfig) -> None:
    """Raises a UserError where the image decoder lacks a layer that the objective compares."""
    there = image_vae.decoder.layers()
    unknown = [name for name in named_layers(loss.feature_layers) if name not in there]
    if "features" in loss.compat_terms and unknown:
        raise UserError(
            f"loss.feature_layers names {unknown[0]}, and the image decoder has {', '.join(there)}."
        )


def latent_terms(
    ours: DiagonalGaussian,
    theirs: DiagonalGaussian,
    image_vae: ImageVAE,
    *,
    loss: LossConfig,
    values: int,
    remat: Remat,
) -> tuple[Float[Array, ""], StepMetrics]:
    """The weighted sum of the terms that compare latents, and each of them without its weight.

    `latent` is a distance of the posteriors, summed over a latent frame. `features` is that of
    their means as the image decoder's first layers see them: relative to the layer's length,
    averaged over layers, and times `values`, as LPIPS is in the reconstruction's error. Both are
    averaged over latent frames.

    Args:
        ours: the video VAE's posterior.
        theirs: the image encoder's posterior of the mapped frames, of as many latent frames, or of
            fewer, with which the first of ours are compared.
        image_vae: the frozen image VAE; gradients go through its decoder to our means.
        loss: the objective's settings.
        values: numbers of a frame, height x width x 3.
        remat: what is kept for the backward pass.
    """
    count, weights = theirs.mean.shape[1], loss.compat_terms
    ours = DiagonalGaussian(ours.mean[:, :count], ours.logvar[:, :count])
    total, metrics = jnp.zeros(()), {}
    if "latent" in weights:
        distance = losses.latent_distance(ours, theirs, kind=loss.latent_distance).mean()
        total += weights["latent"] * distance
        metrics["loss/compat_latent"] = distance
    if "features" in weights:
        distance = _feature_distance(ours.mean, theirs.mean, image_vae, loss, remat).mean()
        total += weights["features"] * values * distance
        metrics["loss/compat_features"] = distance
    return total, metrics


def _feature_distance(
    ours: Array, theirs: Array, image_vae: ImageVAE, loss: LossConfig, remat: Remat
) -> Float[Array, "b n"]:
    names = named_layers(loss.feature_layers)
    found = [image_vae.decoder_features(latents, names, remat=remat) for latents in (ours, theirs)]
    distances = [losses.feature_distance(*pair) for pair in zip(*found, strict=True)]
    return sum(distances) / len(distances)

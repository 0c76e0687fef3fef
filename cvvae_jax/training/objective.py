"""The objective of training: what the VAE and the discriminator minimize.

`vae_objective` sums all terms of the VAE but the GAN's. A caller adds a term by `state.Term`,
without a change here. A new setting takes three places: a function in `losses`, a weight in
`config.LossConfig`, and a line in `vae_objective`. The GAN's terms are
`gan_loss` for the VAE, and `loss_of_fake` and `loss_of_real` for the discriminator. The function
`gradients` in `step` adds the GAN's term to the VAE's objective, since its weight depends on
gradients.
"""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

from cvvae_jax import losses, split_frames
from cvvae_jax.config import LossConfig, Remat
from cvvae_jax.errors import UserError
from cvvae_jax.metrics.image import psnr
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.training.latent_terms import (
    compares_latents,
    latent_terms,
    trains_on_image_latents,
)
from cvvae_jax.training.state import Frozen, LogitMeans, LogScales, RandomKeys, StepMetrics


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
    """The random numbers of a batch."""

    noise: Float[Array, "b n y x z"]
    """Standard normal noise of the video VAE's posterior; it depends on the record."""
    image_noise: Float[Array, "b n y x z"]
    """Standard normal noise of the image VAE's posterior; it depends on the record."""
    offsets: Int[Array, " groups"]
    """Frames that the `random` mapping takes; one draw a step."""

    @classmethod
    def create(
        cls,
        model: VAE,
        keys: RandomKeys,
        seeds: UInt32[Array, " b"],
        step: Int[Array, ""],
        *,
        video_shape: tuple[int, ...],
    ) -> "Draws":
        """The draws of a step for records with these seeds. They depend neither on the records'
        places in the batch nor on the devices."""
        _, t, h, w, _ = video_shape
        space, time = model.config.spatial_compression, model.temporal_compression
        groups = (t - 1) // time
        height = split_frames.device_count() * h
        shape = (1 + groups, height // space, w // space, model.config.latent_channels)

        def noise(key: Key[Array, ""]):
            keys = jax.vmap(lambda seed: jax.random.fold_in(key, seed))(seeds)
            return split_frames.own_rows(jax.vmap(lambda key: jax.random.normal(key, shape))(keys))

        key = jax.random.fold_in(keys.steps, step)
        offsets = losses.draw_offsets(key, groups=groups, temporal_compression=time)
        return cls(noise(keys.noise), noise(keys.image_noise), offsets)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Videos in [-1, 1], and their random numbers."""

    video: Float[Array, "b t h w 3"]
    draws: Draws


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
    """The outputs of the VAE that the objective depends on."""

    posterior: DiagonalGaussian
    latents: Float[Array, "b n y x z"]
    """A sample of the posterior."""
    recons: tuple[Float[Array, "b _ h w 3"], ...]
    """What the video decoder makes of the video's latents and, with encoder-based compatibility, of
    the image VAE's latents."""


def image_posterior(
    video: Float[Array, "b t h w 3"],
    draws: Draws,
    frozen: Frozen,
    *,
    loss: LossConfig,
    temporal_compression: int,
) -> DiagonalGaussian | None:
    """The posterior that the frozen image encoder gives the mapped frames, of n or fewer latent
    frames; None where no term needs it."""
    if not (trains_on_image_latents(loss) or compares_latents(loss)):
        return None
    frames = losses.compat_targets(
        video,
        mapping=loss.mapping,
        temporal_compression=temporal_compression,
        offsets=draws.offsets,
    )
    return jax.lax.stop_gradient(frozen.image_vae.encode(frames))


def image_latents(
    posterior: DiagonalGaussian | None, draws: Draws, *, loss: LossConfig
) -> Float[Array, "b n y x z"] | None:
    """A sample of the `image_posterior`; None where the video decoder isn't trained on it."""
    if not trains_on_image_latents(loss):
        return None
    return posterior.with_noise(draws.image_noise[:, : posterior.mean.shape[1]])


def generate(
    model: VAE,
    video: Float[Array, "b t h w 3"],
    noise: Float[Array, "b n y x z"],
    image_latents: Float[Array, "b m y x z"] | None,
    *,
    remat: Remat,
) -> tuple[Outputs, tuple[Array, ...]]:
    """The VAE's outputs, and the inputs of the decoder's last layer that belong to `recons`."""
    posterior = model.encode(video, remat=remat)
    latents = posterior.with_noise(noise)
    decoded = [latents] if image_latents is None else [latents, image_latents]
    hiddens = tuple(model.decode_hidden(z, remat=remat) for z in decoded)
    recons = tuple(model.decoder.conv_out(hidden) for hidden in hiddens)
    return Outputs(posterior, latents, recons), hiddens


def without_encoder_gradients(outputs: Outputs) -> Outputs:
    """The same outputs, through whose posterior and latents no gradient goes back: for a frozen
    encoder."""
    posterior, latents = jax.lax.stop_gradient((outputs.posterior, outputs.latents))
    return dataclasses.replace(outputs, posterior=posterior, latents=latents)


def vae_objective(
    outputs: Outputs,
    log_scales: LogScales,
    video: Float[Array, "b t h w 3"],
    draws: Draws,
    frozen: Frozen,
    *,
    reference: DiagonalGaussian | None,
    loss: LossConfig,
    temporal_compression: int,
    remat: Remat,
) -> tuple[Float[Array, ""], StepMetrics]:
    """The VAE's objective without its GAN term, nll + kl_weight * KL + the errors of differences
    between frames + the caller's terms, and the metrics of its terms; `reference` is the
    `image_posterior`.

    nll is the reconstruction's likelihood loss. With encoder-based compatibility it becomes the
    average (nll + compat_weight * other) / (1 + compat_weight), where `other` is the likelihood
    loss of the image latents' reconstruction. With decoder-based compatibility, compat_weight times
    the likelihood loss of the image decoder's view is added, and so are `latent_terms`.
    """
    compat = loss.compat_terms
    recon, *from_images = outputs.recons
    settings = {
        "log_scale": log_scales.recon,
        "kind": loss.recon,
        "lpips_weight": loss.lpips_weight,
        "network": frozen.lpips,
        "remat": remat,
    }
    nll, metrics = _likelihood(recon, video, name="recon", **settings)
    for image_recon in from_images:
        target = video[:, : image_recon.shape[1]]  # the mapping `first` yields one frame
        other, parts = _likelihood(image_recon, target, name="compat_encoder", **settings)
        nll = (nll + compat["encoder"] * other) / (1 + compat["encoder"])
        metrics |= parts
    if "decoder" in compat:
        other, parts = _decoder_term(
            outputs,
            video,
            draws,
            frozen,
            log_scale=log_scales.compat,
            loss=loss,
            temporal_compression=temporal_compression,
            remat=remat,
        )
        nll += compat["decoder"] * other
        metrics |= parts
    if compares_latents(loss):
        other, parts = latent_terms(
            outputs.posterior,
            reference,
            frozen.image_vae,
            loss=loss,
            values=split_frames.device_count() * math.prod(video.shape[2:]),
            remat=remat,
        )
        nll += other
        metrics |= parts
    kl = split_frames.sum_over_devices(outputs.posterior.kl()).mean()
    total = nll + loss.kl_weight * kl
    metrics |= {"loss/nll": nll, "loss/kl": kl}
    if loss.difference_weight or loss.boundary_weight:
        errors = losses.difference_errors(recon, video, temporal_compression=temporal_compression)
        total += loss.difference_weight * errors[0] + loss.boundary_weight * errors[1]
        metrics |= {"loss/differences": errors[0], "loss/boundaries": errors[1]}
    for name, term in frozen.terms.items():
        value = _added(name, term(outputs, video), metrics)
        total += term.weight * value
        metrics[f"loss/{name}"] = value
    return total, metrics


def _decoder_term(
    outputs: Outputs,
    video: Float[Array, "b t h w 3"],
    draws: Draws,
    frozen: Frozen,
    *,
    log_scale: Float[Array, ""],
    loss: LossConfig,
    temporal_compression: int,
    remat: Remat,
) -> tuple[Float[Array, ""], StepMetrics]:
    """The likelihood loss of the image decoder's view of the video's latents, and its metrics."""
    target = losses.compat_targets(
        video,
        mapping=loss.mapping,
        temporal_compression=temporal_compression,
        offsets=draws.offsets,
    )
    return _likelihood(
        frozen.image_vae.decode(outputs.latents[:, : target.shape[1]], remat=remat),
        target,
        name="compat",
        log_scale=log_scale,
        kind=loss.compat_recon,
        lpips_weight=loss.compat_lpips_weight,
        network=frozen.lpips,
        remat=remat,
    )


_OF_STEPS = {"total", "gan_g", "gan_d", "gan_penalty"}
"""Names after `loss/` of the metrics that a step adds to those of the objective."""


def _added(name: str, value: Any, metrics: StepMetrics) -> Float[Array, ""]:
    """The value of a caller's term.

    Raises:
        UserError: it is no scalar, or another metric has its name.
    """
    if name in _OF_STEPS or f"loss/{name}" in metrics:
        raise UserError(f"a term of the objective can't be called {name}: loss/{name} is taken.")
    if jnp.shape(value) != ():
        raise UserError(f"the term {name} must return a scalar, not an array {jnp.shape(value)}.")
    return jnp.asarray(value, jnp.float32)


def _likelihood(
    recon: Float[Array, "b t h w 3"],
    video: Float[Array, "b t h w 3"],
    *,
    log_scale: Float[Array, ""],
    kind: Literal["l1", "l2"],
    lpips_weight: float,
    name: str,
    network: LPIPS | None,
    remat: Remat,
) -> tuple[Float[Array, ""], StepMetrics]:
    """The likelihood loss of a reconstruction, and its metrics: pixel error, LPIPS and PSNR.

    LPIPS, one number a frame, is added to the error of every value of the frame, as in the official
    code.
    """
    values = split_frames.device_count() * math.prod(video.shape[2:])
    error = losses.pixel_error(recon, video, kind=kind)
    metrics = {f"loss/{name}": error.mean(), f"psnr/{name}": psnr(recon, video).mean()}
    if lpips_weight:
        distance = losses.lpips(network, recon, video, remat=remat)
        error += lpips_weight * values * distance
        metrics["loss/lpips" if name == "recon" else f"loss/lpips_{name}"] = distance.mean()
    return losses.likelihood_loss(error, log_scale, values=values), metrics


def discriminate(
    discriminator: Discriminator, video: Float[Array, "b t h w 3"], *, remat: Remat
) -> Float[Array, "b t2 h2 w2 1"]:
    """The discriminator's logits, in float32 whatever it computes in, since losses average them."""
    return discriminator(video, remat=remat).astype(jnp.float32)


def mean_logit(logits: tuple[Array, ...]) -> Float[Array, ""]:
    """The mean logit of one or more videos."""
    return split_frames.mean_over_devices(sum(x.mean() for x in logits) / len(logits))


def gan_loss(logits: tuple[Array, ...]) -> Float[Array, ""]:
    """The VAE's GAN loss, from the logits of each of its reconstructions."""
    return sum(map(losses.generator_loss, logits)) / len(logits)


def loss_of_fake(
    logits: tuple[Array, ...], averages: LogitMeans, *, loss: LossConfig
) -> tuple[Float[Array, ""], tuple[Array, Array]]:
    """The discriminator's loss on reconstructions with its penalty, and both of them apart."""
    value = sum(losses.fake_loss(x, kind=loss.gan) for x in logits) / len(logits)
    penalty = jnp.zeros(())
    if loss.gan_penalty == "lecam":
        penalty = sum(losses.lecam_fake(x, averages.real) for x in logits) / len(logits)
    return value + loss.gan_penalty_weight * penalty, (value, penalty)


def loss_of_real(
    discriminator: Discriminator,
    video: Float[Array, "b t h w 3"],
    averages: LogitMeans,
    *,
    loss: LossConfig,
    remat: Remat,
) -> tuple[Float[Array, ""], tuple[Array, Array, Array]]:
    """The discriminator's loss on real videos with its penalty; both of them apart, and the mean
    logit."""
    logits = discriminate(discriminator, video, remat=remat)
    value = losses.real_loss(logits, kind=loss.gan)
    penalty = jnp.zeros(())
    if loss.gan_penalty == "lecam":
        penalty = losses.lecam_real(logits, averages.fake)
    if loss.gan_penalty == "r1":
        logits_of = functools.partial(discriminate, discriminator, remat=remat)
        penalty = losses.r1_penalty(logits_of, video)
    return value + loss.gan_penalty_weight * penalty, (value, penalty, mean_logit((logits,)))

"""The objective of the VAE: what it is made of, from a batch to one number."""

import dataclasses
import math
from typing import Literal

import jax
from jaxtyping import Array, Float, Int, Key, UInt32

from cvvae_jax import split_frames
from cvvae_jax.config import LossConfig, Remat
from cvvae_jax.losses import compat_targets, draw_offsets, likelihood_loss, lpips, pixel_error
from cvvae_jax.metrics.image import psnr
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.training.state import Frozen, LogScales, Streams

Metrics = dict[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
    """All that is random about a batch."""

    noise: Float[Array, "b n y x z"]
    """Of the video VAE's posterior; keyed by the record."""
    image_noise: Float[Array, "b n y x z"]
    """Of the image VAE's posterior; keyed by the record."""
    offsets: Int[Array, " groups"]
    """Of the random mapping; one draw a step."""

    @classmethod
    def create(
        cls,
        model: VAE,
        streams: Streams,
        seeds: UInt32[Array, " b"],
        step: Int[Array, ""],
        *,
        video_shape: tuple[int, ...],
    ) -> "Draws":
        """The draws of a step for records of these seeds, independent of their places in the batch
        and of the devices."""
        _, t, h, w, _ = video_shape
        space, time = model.config.spatial_compression, model.temporal_compression
        groups = (t - 1) // time
        height = split_frames.device_count() * h
        shape = (1 + groups, height // space, w // space, model.config.latent_channels)

        def noise(key: Key[Array, ""]):
            keys = jax.vmap(lambda seed: jax.random.fold_in(key, seed))(seeds)
            return split_frames.own_rows(jax.vmap(lambda key: jax.random.normal(key, shape))(keys))

        key = jax.random.fold_in(streams.steps, step)
        offsets = draw_offsets(key, groups=groups, temporal_compression=time)
        return cls(noise(streams.noise), noise(streams.image_noise), offsets)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
    """What the VAE makes of a batch, as far as the objective looks at it."""

    posterior: DiagonalGaussian
    latents: Float[Array, "b n y x z"]
    recons: tuple[Float[Array, "b _ h w 3"], ...]
    """Of the video's latents; and, with encoder-based compatibility, of the image VAE's."""


def encodes_images(loss: LossConfig) -> bool:
    """Whether the video decoder is trained on the image encoder's latents."""
    return loss.compat_mode in ("encoder", "both") and loss.compat_weight > 0


def image_latents(
    video: Float[Array, "b t h w 3"],
    draws: Draws,
    frozen: Frozen,
    *,
    loss: LossConfig,
    temporal_compression: int,
) -> Float[Array, "b n y x z"] | None:
    """Latents of the mapped frames by the frozen image encoder; None where no term needs them."""
    if not encodes_images(loss):
        return None
    frames = compat_targets(
        video,
        mapping=loss.mapping,
        temporal_compression=temporal_compression,
        offsets=draws.offsets,
    )
    noise = draws.image_noise[:, : frames.shape[1]]
    return jax.lax.stop_gradient(frozen.image_vae.encode(frames).with_noise(noise))


def generate(
    model: VAE,
    video: Float[Array, "b t h w 3"],
    noise: Float[Array, "b n y x z"],
    image_latents: Float[Array, "b m y x z"] | None,
    *,
    remat: Remat,
) -> tuple[Outputs, tuple[Array, ...]]:
    """Posterior, a sample and reconstructions; beside them what the decoder's last layer saw."""
    posterior = model.encode(video, remat=remat)
    latents = posterior.with_noise(noise)
    decoded = [latents] if image_latents is None else [latents, image_latents]
    hiddens = tuple(model.decode_hidden(z, remat=remat) for z in decoded)
    recons = tuple(model.decoder.conv_out(hidden) for hidden in hiddens)
    return Outputs(posterior, latents, recons), hiddens


def negative_elbo(
    outputs: Outputs,
    log_scales: LogScales,
    video: Float[Array, "b t h w 3"],
    draws: Draws,
    frozen: Frozen,
    *,
    loss: LossConfig,
    temporal_compression: int,
    remat: Remat,
) -> tuple[Float[Array, ""], Metrics]:
    """The objective without its GAN term, nll + kl_weight * KL, and its parts.

    nll is the reconstruction's; with encoder-based compatibility it is averaged, with weights 1 and
    compat_weight, with that of the image latents' reconstruction, as if those were more of the
    batch; with decoder-based compatibility compat_weight times the image decoder's is added.
    """
    recon, *from_images = outputs.recons
    shared = {"network": frozen.lpips, "remat": remat}
    likely = {
        "log_scale": log_scales.recon,
        "kind": loss.recon,
        "lpips_weight": loss.lpips_weight,
        **shared,
    }
    nll, metrics = _frame_loss(recon, video, name="recon", **likely)
    for image_recon in from_images:  # the mapping `first` has one frame
        target = video[:, : image_recon.shape[1]]
        other, parts = _frame_loss(image_recon, target, name="compat_encoder", **likely)
        nll = (nll + loss.compat_weight * other) / (1 + loss.compat_weight)
        metrics |= parts
    if loss.compat_mode in ("decoder", "both"):
        target = compat_targets(
            video,
            mapping=loss.mapping,
            temporal_compression=temporal_compression,
            offsets=draws.offsets,
        )
        view = frozen.image_vae.decode(outputs.latents[:, : target.shape[1]], remat=remat)
        other, parts = _frame_loss(
            view,
            target,
            name="compat",
            log_scale=log_scales.compat,
            kind=loss.compat_recon,
            lpips_weight=loss.compat_lpips_weight,
            **shared,
        )
        nll += loss.compat_weight * other
        metrics |= parts
    kl = split_frames.sum_over_devices(outputs.posterior.kl()).mean()
    return nll + loss.kl_weight * kl, metrics | {"loss/nll": nll, "loss/kl": kl}


def _frame_loss(
    recon: Float[Array, "b t h w 3"],
    video: Float[Array, "b t h w 3"],
    *,
    log_scale: Float[Array, ""],
    kind: Literal["l1", "l2"],
    lpips_weight: float,
    name: str,
    network: LPIPS | None,
    remat: Remat,
) -> tuple[Float[Array, ""], Metrics]:
    """The likelihood loss of frames, and what is logged of it: the pixels' error, LPIPS, PSNR.

    LPIPS, one number a frame, is added to the error of every value of the frame, as in the official
    code.
    """
    values = split_frames.device_count() * math.prod(video.shape[2:])
    error = pixel_error(recon, video, kind=kind)
    metrics = {f"loss/{name}": error.mean(), f"psnr/{name}": psnr(recon, video).mean()}
    if lpips_weight:
        distance = lpips(network, recon, video, remat=remat)
        error += lpips_weight * values * distance
        metrics["loss/lpips" if name == "recon" else f"loss/lpips_{name}"] = distance.mean()
    return likelihood_loss(error, log_scale, values=values), metrics

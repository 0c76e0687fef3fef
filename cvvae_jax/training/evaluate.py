"""Measuring a model on unseen clips, beside plain baselines."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cvvae_jax import sharding
from cvvae_jax.metrics.baselines import bicubic_in_space, bicubic_in_space_and_time
from cvvae_jax.metrics.compatibility import compat_psnr
from cvvae_jax.metrics.image import psnr
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.pixels import to_float

Scores = dict[str, float]
Views = dict[str, np.ndarray]


def evaluate(
    model: VAE, frozen: ImageVAE | None, clips: np.ndarray, mesh: Mesh
) -> tuple[Scores, Views]:
    """PSNRs in dB, averaged over clips, and the first clips as the models see them.

    `clips` is uint8 (n, t, h, w, 3). Scores: `recon` of the reconstruction from the posterior's
    mode; with a frozen image VAE, `compat` of its view of the video's latents and `image_vae` of
    its own latents, frame by frame; `bicubic` and `bicubic_time` of resampling to the latent grid
    in space, and in space and time. Views: float32 (n', t', h, w, 3) of `input`, `recon` and
    `compat`, n' at most 4.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    run = jax.jit(_evaluate_batch, out_shardings=replicated)
    scores, views = [], []
    for start in range(0, len(clips), mesh.size):
        batch = clips[start : start + mesh.size]
        filled = np.concatenate([batch, np.repeat(batch[-1:], mesh.size - len(batch), axis=0)])
        batch_scores, batch_views = run(
            model, frozen, jax.device_put(filled, sharding.batch_sharding(mesh))
        )
        keep = slice(len(batch))
        scores.append({name: np.asarray(x)[keep] for name, x in batch_scores.items()})
        if start < 4:
            views.append({name: np.asarray(x)[keep] for name, x in batch_views.items()})
    join = functools.partial(jax.tree.map, lambda *parts: np.concatenate(parts))
    return {name: float(x.mean()) for name, x in join(*scores).items()}, {
        name: x[:4] for name, x in join(*views).items()
    }


def _evaluate_batch(model, frozen, clips):
    """PSNR of every clip, (b,), and views."""
    video = to_float(clips)
    space, time = model.config.spatial_compression, model.temporal_compression
    latents = model.encode(video).mode()
    views = {"input": video, "recon": model.decode(latents)}
    scores = {"recon": psnr(views["recon"], video)}
    scores["bicubic"] = psnr(bicubic_in_space(video, spatial_compression=space), video)
    if time > 1 and video.shape[1] > 1:
        resampled = bicubic_in_space_and_time(
            video, spatial_compression=space, temporal_compression=time
        )
        scores["bicubic_time"] = psnr(resampled, video)
    if frozen is not None:
        views["compat"] = frozen.decode(latents)
        scores["compat"] = compat_psnr(views["compat"], video, temporal_compression=time)
        scores["image_vae"] = psnr(frozen.decode(frozen.encode(video).mode()), video)
    return jax.tree.map(lambda x: x.mean(axis=1), scores), views

"""Measuring a model on unseen clips, beside plain baselines."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cvvae_jax import sharding
from cvvae_jax.metrics.baselines import bicubic_in_space, bicubic_in_space_and_time
from cvvae_jax.metrics.compatibility import in_step
from cvvae_jax.metrics.image import SSIM_WINDOW, psnr, ssim
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.pixels import to_float

Scores = dict[str, float]
Views = dict[str, np.ndarray]


def evaluate(
    model: VAE, frozen: ImageVAE | None, clips: np.ndarray, mesh: Mesh
) -> tuple[Scores, Views]:
    """PSNR in dB and SSIM, averaged over clips, and the first clips as the models see them.

    `clips` is uint8 (n, t, h, w, 3). Scores: `psnr_NAME` and, where frames have the 11 pixels that
    it takes, `ssim_NAME`. `recon` is the reconstruction from the posterior's mode; with a frozen
    image VAE, `compat` is its view of the video's latents, `image_latents` the video decoder's view
    of the latents that the image VAE gives the first frame and the last one of every group, and
    `image_vae` the image VAE's own reconstruction, frame by frame; `bicubic` and `bicubic_time` are
    resampling to the latent grid in space, and in space and time. Views: float32
    (n', t', h, w, 3) of `input`, `recon` and `compat`, n' at most 4.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    run = jax.jit(_evaluate_batch, out_shardings=replicated)
    scores, views = [], []
    for start in range(0, len(clips), mesh.size):
        batch = clips[start : start + mesh.size]
        filled = np.concatenate([batch, np.repeat(batch[-1:], mesh.size - len(batch), axis=0)])
        # Every process has all clips.
        placed = jax.make_array_from_callback(
            filled.shape, sharding.whole_clips(mesh), functools.partial(_part, filled)
        )
        batch_scores, batch_views = run(model, frozen, placed)
        keep = slice(len(batch))
        scores.append({name: np.asarray(x)[keep] for name, x in batch_scores.items()})
        if start < 4:
            views.append({name: np.asarray(x)[keep] for name, x in batch_views.items()})
    join = functools.partial(jax.tree.map, lambda *parts: np.concatenate(parts))
    return {name: float(x.mean()) for name, x in join(*scores).items()}, {
        name: x[:4] for name, x in join(*views).items()
    }


def _part(clips: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
    return clips[index]


def _evaluate_batch(model, frozen, clips):
    """Scores of every clip, (b,), and views."""
    video = to_float(clips)
    latents = model.encode(video).mode()
    views = {"input": video, "recon": model.decode(latents)}
    rivals = {"recon": views["recon"], **_resampled(video, model)}
    if frozen is not None:
        time = model.temporal_compression
        views["compat"] = frozen.decode(latents)
        rivals["compat"] = in_step(views["compat"], temporal_compression=time)
        rivals["image_latents"] = model.decode(frozen.encode(video[:, ::time]).mode())
        rivals["image_vae"] = frozen.decode(frozen.encode(video).mode())
    metrics = {"psnr": psnr}
    if min(video.shape[2:4]) >= SSIM_WINDOW:
        metrics["ssim"] = ssim
    scores = {
        f"{metric}_{name}": measure(rival, video).mean(axis=1)
        for metric, measure in metrics.items()
        for name, rival in rivals.items()
    }
    return scores, views


def _resampled(video, model):
    """The video through the latent grid without any model."""
    space, time = model.config.spatial_compression, model.temporal_compression
    found = {"bicubic": bicubic_in_space(video, spatial_compression=space)}
    if time > 1 and video.shape[1] > 1:
        found["bicubic_time"] = bicubic_in_space_and_time(
            video, spatial_compression=space, temporal_compression=time
        )
    return found

"""Scores of a model and of plain baselines on unseen clips, during a run and at its end."""

import functools
import io
import json
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cvvae_jax import sharding
from cvvae_jax.checkpoint import newest_complete_step
from cvvae_jax.compiling import announced
from cvvae_jax.config import TrainConfig
from cvvae_jax.frame_groups import repeat_to_frames
from cvvae_jax.metrics.baselines import bicubic_in_space, bicubic_in_space_and_time
from cvvae_jax.metrics.image import SSIM_WINDOW, psnr, ssim
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.inputs import to_float
from cvvae_jax.resumable.files import read_json, write_whole
from cvvae_jax.training.jobs import Job
from cvvae_jax.training.log import finite_or_none, say
from cvvae_jax.training.pictures import contact_sheet

Scores = dict[str, float]
"""Scores by name, such as `psnr_recon`."""
Views = dict[str, np.ndarray]
"""Videos by name, such as `recon`."""


def evaluate(
    model: VAE,
    frozen: ImageVAE | None,
    clips: np.ndarray,
    mesh: Mesh,
    say: Callable[[str], None] | None = None,
) -> tuple[Scores, Views]:
    """Measures a model on clips, beside baselines.

    Args:
        model: the model.
        frozen: the image VAE that it is to be compatible with; None where there is none.
        clips: uint8 (n, t, h, w, 3).
        mesh: the devices; every process has all clips.
        say: is told before the program is compiled; default: the log of `compiling`.

    Returns:
        The scores, averaged over clips, and views of at most 4 clips. Scores are `psnr_NAME` in dB
        and, where frames have 11 pixels or more along each side, `ssim_NAME`. The names are
        `recon`: the reconstruction from the posterior's mode;
        `bicubic` and `bicubic_time`: resampling to the latent grid and back, in space, and in space
        and time;
        and with a frozen image VAE also
        `compat`: the image decoder on the video's latents;
        `image_latents`: the video decoder on the image VAE's latents of the first frame and of the
        last frame of every group;
        `image_vae`: the image VAE's reconstruction, frame by frame.
        Views are float32 (n', t', h, w, 3), named `input`, `recon` and `compat`.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    run = jax.jit(_evaluate_batch, out_shardings=replicated)
    model_name = type(model).__name__
    identity = (model.config, frozen and frozen.config, clips.shape[1:], dict(mesh.shape))
    scores, views = [], []
    for start in range(0, len(clips), mesh.size):
        batch = clips[start : start + mesh.size]
        filled = np.concatenate([batch, np.repeat(batch[-1:], mesh.size - len(batch), axis=0)])
        placed = jax.make_array_from_callback(
            filled.shape, sharding.whole_clips(mesh), functools.partial(_part, filled)
        )
        with announced(f"the evaluation of {model_name}", *identity, once=True, say=say):
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
    """Scores of every clip, each (b,), and views."""
    video = to_float(clips)
    latents = model.encode(video).mode()
    views = {"input": video, "recon": model.decode(latents)}
    rivals = {"recon": views["recon"], **_resampled(video, model)}
    if frozen is not None:
        time = model.temporal_compression
        views["compat"] = frozen.decode(latents)
        rivals["compat"] = repeat_to_frames(views["compat"], temporal_compression=time)
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
    """The video, resampled to the latent grid and back, in space, and in space and time."""
    space, time = model.config.spatial_compression, model.temporal_compression
    found = {"bicubic": bicubic_in_space(video, spatial_compression=space)}
    if time > 1 and video.shape[1] > 1:
        found["bicubic_time"] = bicubic_in_space_and_time(
            video, spatial_compression=space, temporal_compression=time
        )
    return found


_LABELS = {
    "recon": "reconstruction",
    "compat": "image decoder on the video's latents (compatibility)",
    "image_latents": "video decoder on the image VAE's latents of one frame in {k}",
    "image_vae": "image VAE, frame by frame",
    "bicubic": "bicubic, down and up in space",
    "bicubic_time": "bicubic, down and up in space and time (the latent grid)",
}


def report(model: VAE, image_vae: ImageVAE | None, job: Job, config: TrainConfig) -> Scores:
    """Measures a trained model, prints a table, and writes `scores.json` and
    `samples/contact_sheet.png` to the folder of the job."""
    tell = functools.partial(say, job.folder)
    scores, views = evaluate(model, image_vae, job.clips, job.mesh, tell)
    if jax.process_index() == 0:
        samples = job.folder / "samples"
        samples.mkdir(exist_ok=True)
        sheet = contact_sheet(views, temporal_compression=model.temporal_compression)
        png = io.BytesIO()
        sheet.save(png, "png")
        write_whole(samples / "contact_sheet.png", png.getvalue())
        write_whole(job.folder / "scores.json", json.dumps(_record(scores, job, config), indent=2))
    count, frames, height, width, _ = job.clips.shape
    say(job.folder, f"on {count} unseen clips of {frames} frames of {height} x {width}:")
    for line in _table(scores, temporal_compression=model.temporal_compression):
        say(job.folder, line)
    say(job.folder, f"contact sheet: {job.folder / 'samples' / 'contact_sheet.png'}")
    return scores


def finished_scores(job: Job) -> Scores | None:
    """The scores that `report` wrote for a job that is done; None where the last checkpoint or
    scores.json is missing."""
    if newest_complete_step(job.folder / "checkpoints") != job.stage.steps:
        return None
    path = job.folder / "scores.json"
    record = read_json(path) if path.exists() else None
    if record is None:
        return None
    tables = {metric: record.get(metric) for metric in ("psnr", "ssim")}
    return {
        f"{metric}_{rival}": math.nan if value is None else value
        for metric, table in tables.items()
        for rival, value in (table or {}).items()
    }


def _table(scores: Scores, *, temporal_compression: int) -> list[str]:
    has_ssim = "ssim_recon" in scores
    lines = [f"{'PSNR':>11}" + f"{'SSIM':>9}" * has_ssim]
    for name, label in _LABELS.items():
        if f"psnr_{name}" in scores:
            ssim = f"  {scores[f'ssim_{name}']:7.4f}" if has_ssim else ""
            label = label.format(k=temporal_compression)
            lines.append(f"  {scores[f'psnr_{name}']:6.2f} dB{ssim}  {label}")
    return lines


def _record(scores: Scores, job: Job, config: TrainConfig) -> dict:
    """The content of scores.json: scores by metric, and what they depend on."""
    by_metric = {"psnr": {}, "ssim": {}}
    for name, value in finite_or_none(scores).items():
        metric, _, rival = name.partition("_")
        by_metric[metric][rival] = value
    return {
        **by_metric,
        "clips": list(job.clips.shape),
        "device": job.mesh.devices.flat[0].device_kind,
        "devices": job.mesh.size,
        "jax": jax.__version__,
        "matmul_precision": config.matmul_precision,
    }

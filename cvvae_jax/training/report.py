"""What is said and left of a finished run: scores, beside plain baselines, and a contact sheet."""

import io
import json
import math

import jax

from cvvae_jax.checkpoint import newest_step
from cvvae_jax.config import TrainConfig
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.training.evaluate import Scores, evaluate
from cvvae_jax.training.jobs import Job
from cvvae_jax.training.log import finite_or_none, say
from cvvae_jax.training.pictures import contact_sheet
from cvvae_jax.training.run_files import read_json, write_whole

_LABELS = {
    "recon": "reconstruction",
    "compat": "image decoder on the video's latents (compatibility)",
    "image_latents": "video decoder on the image VAE's latents of one frame in {k}",
    "image_vae": "image VAE, frame by frame",
    "bicubic": "bicubic, down and up in space",
    "bicubic_time": "bicubic, down and up in space and time (the latent grid)",
}


def report(model: VideoVAE, image_vae: ImageVAE, job: Job, config: TrainConfig) -> Scores:
    """Measures a trained model, prints a table, and writes `scores.json` and
    `samples/contact_sheet.png` to the run folder."""
    scores, views = evaluate(model, image_vae, job.clips, job.mesh)
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
    """What `report` has left of a job whose last checkpoint is there; None where there is
    neither."""
    if newest_step(job.folder / "checkpoints") != job.stage.steps:
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
    """The scores, by metric, with what they depend on."""
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

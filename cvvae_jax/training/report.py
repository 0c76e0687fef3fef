"""What is said and left of a finished run: scores, beside plain baselines, and a contact sheet."""

import json

import jax

from cvvae_jax.config import TrainConfig
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.training.evaluate import Scores, evaluate
from cvvae_jax.training.jobs import Job
from cvvae_jax.training.log import say
from cvvae_jax.training.pictures import contact_sheet

_LABELS = {
    "recon": "reconstruction",
    "compat": "image decoder on the video's latents (compatibility)",
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
        sheet.save(samples / "contact_sheet.png")
        (job.folder / "scores.json").write_text(json.dumps(_record(scores, job, config), indent=2))
    count, frames, height, width, _ = job.clips.shape
    say(job.folder, f"PSNR on {count} unseen clips of {frames} frames of {height} x {width}:")
    for name, label in _LABELS.items():
        if name in scores:
            say(job.folder, f"  {scores[name]:6.2f} dB  {label}")
    say(job.folder, f"contact sheet: {job.folder / 'samples' / 'contact_sheet.png'}")
    return scores


def _record(scores: Scores, job: Job, config: TrainConfig) -> dict:
    """The scores with what they depend on."""
    return {
        "psnr": scores,
        "clips": list(job.clips.shape),
        "device": job.mesh.devices.flat[0].device_kind,
        "devices": job.mesh.size,
        "jax": jax.__version__,
        "matmul_precision": config.matmul_precision,
    }

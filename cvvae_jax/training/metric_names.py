"""What the metrics of training show, in words, as docs/training.md has them."""

DESCRIPTIONS = {
    "loss/total": "What the VAE minimizes: the sum of all terms, weighted.",
    "loss/nll": "All reconstruction and compatibility terms, weighted and scaled.",
    "loss/recon": "Pixel error of the reconstruction, summed over a frame, without LPIPS.",
    "loss/compat": "Pixel error of what the image decoder sees in the video's latents.",
    "loss/compat_encoder": "Pixel error of the reconstruction from the image encoder's latents.",
    "loss/compat_latent": "Distance from the image encoder's latents, summed over a frame.",
    "loss/compat_features": "Relative squared distance from the image encoder's latents, as the "
    "image decoder's first layers see both.",
    "loss/lpips": "LPIPS of the reconstruction, a mean over frames.",
    "loss/lpips_compat": "LPIPS of what the image decoder sees in the video's latents.",
    "loss/lpips_compat_encoder": "LPIPS of the reconstruction from the image encoder's latents.",
    "loss/kl": "KL divergence of the latents to a standard normal, in nats a clip.",
    "loss/differences": "Error of the differences between frames of one latent frame.",
    "loss/boundaries": "Error of the differences between frames of two latent frames.",
    "loss/gan_g": "GAN loss of the VAE, unweighted.",
    "loss/gan_d": "GAN loss of the discriminator.",
    "loss/gan_penalty": "R1 or LeCAM, unweighted.",
    "psnr/recon": "PSNR of the reconstruction of the training batch, in dB.",
    "psnr/compat": "PSNR of what the image decoder sees in the training batch's latents, in dB.",
    "psnr/compat_encoder": "PSNR of the reconstruction from the image encoder's latents, in dB.",
    "gan/adaptive_weight": "What the VAE's GAN loss is multiplied by.",
    "gan/logits_real": "Mean logit that the discriminator gives real videos.",
    "gan/logits_fake": "Mean logit that the discriminator gives reconstructions.",
    "norm/generator": "Length of the VAE's gradient before clipping.",
    "norm/discriminator": "Length of the discriminator's gradient before clipping.",
    "norm/generator_update": "Length of the change of the VAE's parameters.",
    "norm/discriminator_update": "Length of the change of the discriminator's parameters.",
    "learning_rate/generator": "Learning rate of the VAE.",
    "learning_rate/discriminator": "Learning rate of the discriminator.",
    "log_scale/recon": "Learned logarithm of the scale of the reconstruction's errors.",
    "log_scale/compat": "Learned logarithm of the scale of the image decoder's errors.",
    "guard/skipped": "Updates skipped so far, since a loss or gradient was not finite.",
    "guard/vae_in_a_row": "Updates of the VAE skipped since its last good one.",
    "guard/gan_in_a_row": "Updates of the discriminator skipped since its last good one.",
    "guard/rollbacks": "How often the run went back to an earlier checkpoint.",
    "guard/data_offset": "Batches left out by going back.",
    "throughput/frames_per_second_per_device": "Frames trained on a second and device, without "
    "compiling, evaluating and saving.",
    "throughput/data_wait_seconds": "Seconds that a step waited for its batch.",
    "throughput/model_flop_utilization": "The model's operations as a fraction of the device's "
    "peak.",
    "data/replaced_records": "Records that another one took the place of, since they were damaged.",
    "data/bad_files": "Files that could not be decoded.",
}
"""By name. Scores of evaluations, `eval/METRIC_RIVAL`, are described by `describe`."""
_METRICS = {
    "psnr": "PSNR in dB",
    "ssim": "SSIM",
    **{channel: f"mean error of {channel} in 8-bit levels" for channel in ("red", "green", "blue")},
}
_CHART_METRICS = {
    "hue": "largest turn of a hue in degrees",
    "chroma": "ratio of chromas that is farthest from 1",
}
_RIVALS = {
    "recon": "the reconstruction",
    "compat": "what the image decoder sees in the video's latents",
    "image_latents": "the video decoder on the image VAE's latents of one frame in every group",
    "image_vae": "the image VAE, frame by frame",
    "bicubic": "bicubic resampling to the latent grid in space, a baseline",
    "bicubic_time": "bicubic resampling to the latent grid in space and time, a baseline",
}


def describe(name: str) -> str:
    """A sentence on what a metric shows; empty for one that is not known."""
    if name.startswith("eval/"):
        metric, _, rival = name.removeprefix("eval/").partition("_")
        if metric in _METRICS and rival in _RIVALS:
            return f"On unseen clips, {_METRICS[metric]} of {_RIVALS[rival]}."
        if metric in _CHART_METRICS and rival in _RIVALS:
            return f"On a test chart, {_CHART_METRICS[metric]}, of {_RIVALS[rival]}."
    if name.startswith("loss/"):
        return DESCRIPTIONS.get(name, "A term that was added to the objective, without its weight.")
    return DESCRIPTIONS.get(name, "")

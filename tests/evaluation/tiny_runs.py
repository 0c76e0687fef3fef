"""The smallest models and clips that can be evaluated."""

from pathlib import Path

import jax
import numpy as np
from tiny_models import random_model

from cvvae_jax.checkpoint import save_model
from cvvae_jax.config import ImageVAEConfig, VideoVAEConfig
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.video_io.video_writer import VideoWriter

WIDTHS = {
    "block_channels": (4, 4),
    "blocks_per_level": 1,
    "norm_groups": 2,
    "mid_attention": False,
}


def save_models(folder: Path) -> dict[str, str]:
    """Paths of a video VAE, another one, an image VAE with latents of the same shape, and one with
    wider latents."""
    video = VideoVAEConfig(temporal_strides=(2,), decoder_attention="spatial", **WIDTHS)
    model = random_model(VideoVAE, video)
    models = {
        "video": model,
        "other": _scaled(model, 0.7),
        "image": random_model(ImageVAE, ImageVAEConfig(quant_conv=False, **WIDTHS)),
        "wide": random_model(ImageVAE, ImageVAEConfig(latent_channels=16, **WIDTHS)),
    }
    for name, model in models.items():
        save_model(folder / name, model)
    return {name: str(folder / name) for name in models}


def _scaled(model, factor: float):
    return jax.tree.map(lambda x: x * factor, model)


def save_clips(folder: Path, *, count: int, frames: int, height: int = 16, width: int = 20) -> Path:
    """Videos of noise that moves, a broken one among them, and one that is too short."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        still = rng.integers(0, 256, (height, width, 3), np.uint8)
        length = 2 if number == 1 else frames
        with VideoWriter(folder / f"{number}.mp4", fps=25, height=height, width=width) as writer:
            for shift in range(length):
                writer.write(np.roll(still, shift, axis=1))
    (folder / "broken.mp4").write_bytes(b"nothing that plays")
    return folder

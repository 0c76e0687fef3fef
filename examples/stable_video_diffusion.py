"""Stable Video Diffusion's latents as key frames: n of them become a video of 4n - 3 frames.

    pip install ".[pipelines]"
    python -m examples.stable_video_diffusion --pipeline stable-video-diffusion-img2vid \
        --vae CV-VAE/vae3d_v1-1 --image-vae stable-diffusion-2-1/vae --image fox.png

`--vae` is a video VAE that is compatible with Stable Diffusion's image VAE: it decodes all latent
frames together, to out.mp4. `--image-vae` is that image VAE: it decodes each one alone, to the n
frames of key_frames.mp4, which lasts about as long. Frames have the size of the image; the model
was made for 1024 x 576. docs/diffusion.md says more.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from diffusers import StableVideoDiffusionPipeline
from diffusers.utils import load_image
from PIL import Image

import cvvae_jax
from cvvae_jax.codec.pipelines import from_pipeline, require_scale
from cvvae_jax.codec.values import PixelType
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.video_io.video_writer import VideoWriter


def generate(
    pipe: StableVideoDiffusionPipeline, image: Image.Image, *, seed: int = 0, **options: Any
) -> torch.Tensor:
    """The pipeline's latents (b, n, z, y, x) of n frames, scaled."""
    size = {"height": image.height, "width": image.width}
    generator = torch.Generator().manual_seed(seed)
    return pipe(image, generator=generator, output_type="latent", **size, **options).frames


def decode(
    latents: torch.Tensor, video_vae: VAE, image_vae: VAE, *, pixels: PixelType = "uint8"
) -> tuple[np.ndarray, np.ndarray]:
    """The video (b, 4n - 3, h, w, 3) and its key frames (b, n, h, w, 3) of n latent frames."""
    given = from_pipeline(latents, "b n z y x", vae=video_vae, pixels=pixels)
    video = cvvae_jax.Codec(video_vae).decode(given)
    return video, cvvae_jax.Codec(image_vae).decode(given, mode="image")


def main(
    *,
    pipeline: str,
    vae: str,
    image_vae: str,
    image: str,
    output: Path = Path("."),
    frames: int = 14,
    fps: int = 7,
    steps: int = 25,
    seed: int = 0,
) -> None:
    """Write the video that an image begins.

    Args:
        pipeline: folder or name of the pipeline.
        vae: the video VAE.
        image_vae: the image VAE whose latent space it shares.
        image: file or address of the first frame.
        output: folder for the videos.
        frames: latent frames, which are the key frames.
        fps: key frames per second.
        steps: denoising steps.
        seed: seed of the noise.
    """
    gpu = torch.cuda.is_available()
    dtype = torch.float16 if gpu else torch.float32
    pipe = StableVideoDiffusionPipeline.from_pretrained(pipeline, torch_dtype=dtype)
    pipe.to("cuda" if gpu else "cpu")
    models = cvvae_jax.load(vae), cvvae_jax.load(image_vae)
    for model in models:
        require_scale(pipe.vae.config, vae=model)
    options = {"num_frames": frames, "num_inference_steps": steps, "fps": fps}
    videos = decode(generate(pipe, load_image(image), seed=seed, **options), *models)
    rates = fps * models[0].temporal_compression, fps
    for name, [video], rate in zip(("out", "key_frames"), videos, rates, strict=True):
        size = {"height": video.shape[1], "width": video.shape[2]}
        with VideoWriter(output / f"{name}.mp4", fps=rate, **size) as writer:
            for frame in video:
                writer.write(frame)


if __name__ == "__main__":
    tyro.cli(main)

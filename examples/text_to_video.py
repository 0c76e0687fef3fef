"""A text-to-video pipeline's latents as key frames: n of them become a video of 4n - 3 frames.

    pip install ".[pipelines]"
    python -m examples.text_to_video --pipeline stable-diffusion-v1-5 \
        --motion-adapter animatediff-motion-adapter-v1-5-3 \
        --vae CV-VAE/vae3d_v1-1 --prompt "a fox runs through the snow"

With `--motion-adapter` it is AnimateDiff on a Stable Diffusion 1.5. Without one, `--pipeline` is a
text-to-video pipeline whose latents are (b, z, n, y, x) in Stable Diffusion's latent space, such as
text-to-video-ms-1.7b, whose class diffusers maintains no more. docs/diffusion.md says
more.
"""

from typing import Any

import numpy as np
import torch
import tyro
from diffusers import AnimateDiffPipeline, DiffusionPipeline, MotionAdapter

import cvvae_jax
from cvvae_jax.codec.codec import Mode
from cvvae_jax.codec.pipelines import from_pipeline, require_scale
from cvvae_jax.codec.values import PixelType
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.video_io.video_writer import VideoWriter


def open_pipeline(name: str, motion_adapter: str | None, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline of a folder or a name, or AnimateDiff on it."""
    if motion_adapter is None:
        return DiffusionPipeline.from_pretrained(name, torch_dtype=dtype)
    adapter = MotionAdapter.from_pretrained(motion_adapter, torch_dtype=dtype)
    return AnimateDiffPipeline.from_pretrained(name, motion_adapter=adapter, torch_dtype=dtype)


def generate(pipe: DiffusionPipeline, prompt: str, *, seed: int = 0, **options: Any):
    """The pipeline's latents (b, z, n, y, x) of n frames, scaled."""
    generator = torch.Generator().manual_seed(seed)
    return pipe(prompt, generator=generator, output_type="latent", **options).frames


def decode(
    latents: torch.Tensor, vae: VAE, *, mode: Mode = "video", pixels: PixelType = "uint8"
) -> np.ndarray:
    """The video (b, 4n - 3, h, w, 3) of n latent frames, or (b, n, h, w, 3) in image mode."""
    given = from_pipeline(latents, "b z n y x", vae=vae, pixels=pixels)
    return cvvae_jax.Codec(vae).decode(given, mode=mode)


def main(
    *,
    pipeline: str,
    vae: str,
    prompt: str,
    motion_adapter: str | None = None,
    output: str = "out.mp4",
    frames: int = 16,
    fps: int = 8,
    steps: int = 25,
    seed: int = 0,
) -> None:
    """Write the video of a prompt.

    Args:
        pipeline: folder or name of the pipeline.
        vae: the video VAE.
        prompt: what the video shows.
        motion_adapter: folder or name of AnimateDiff's motion adapter.
        output: video to write, with 4 * frames - 3 frames.
        frames: latent frames, which are the key frames.
        fps: key frames per second.
        steps: denoising steps.
        seed: seed of the noise.
    """
    gpu = torch.cuda.is_available()
    pipe = open_pipeline(pipeline, motion_adapter, torch.float16 if gpu else torch.float32)
    pipe.to("cuda" if gpu else "cpu")
    model = cvvae_jax.load(vae)
    require_scale(pipe.vae.config, vae=model)
    latents = generate(pipe, prompt, seed=seed, num_frames=frames, num_inference_steps=steps)
    [video] = decode(latents, model)
    rate = fps * model.temporal_compression
    with VideoWriter(output, fps=rate, height=video.shape[1], width=video.shape[2]) as writer:
        for frame in video:
            writer.write(frame)


if __name__ == "__main__":
    tyro.cli(main)

"""Images of a Stable Diffusion pipeline of diffusers, decoded by a VAE of cvvae_jax.

    pip install ".[pipelines]"
    python -m examples.stable_diffusion --pipeline stable-diffusion-2-1-base \
        --vae CV-VAE/vae3d_v1-1 --prompt "a fox in the snow" --output fox.png

`--pipeline` is a folder or a name on the Hugging Face Hub: Stable Diffusion 1, 2, XL or 3, or any
other text-to-image pipeline whose latents are (b, z, y, x). `--vae` is whatever `cvvae_jax.load`
reads: a video VAE, for which an image is a video of one frame, or an image VAE. Its latent space
must be that of the pipeline. docs/diffusion.md says more.
"""

from typing import Any

import numpy as np
import torch
import tyro
from diffusers import DiffusionPipeline

import cvvae_jax
from cvvae_jax.codec.pipelines import from_pipeline, require_scale
from cvvae_jax.codec.values import PixelType
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.video_io.images import write_image


def generate(pipe: DiffusionPipeline, prompt: str, *, seed: int = 0, **options: Any):
    """The pipeline's latents (b, z, y, x), as its diffusion model has them: scaled."""
    generator = torch.Generator().manual_seed(seed)
    return pipe(prompt, generator=generator, output_type="latent", **options).images


def decode(latents: torch.Tensor, vae: VAE, *, pixels: PixelType = "uint8") -> np.ndarray:
    """The images (b, h, w, 3) of a pipeline's latents."""
    video = cvvae_jax.Codec(vae).decode(from_pipeline(latents, "b z y x", vae=vae, pixels=pixels))
    return video[:, 0]


def main(
    *, pipeline: str, vae: str, prompt: str, output: str = "out.png", steps: int = 50, seed: int = 0
) -> None:
    """Write the image of a prompt.

    Args:
        pipeline: folder or name of the pipeline.
        vae: the VAE that decodes its latents.
        prompt: what the image shows.
        output: file to write: .png, .jpg or .webp.
        steps: denoising steps.
        seed: seed of the noise.
    """
    gpu = torch.cuda.is_available()
    dtype = torch.float16 if gpu else torch.float32
    pipe = DiffusionPipeline.from_pretrained(pipeline, torch_dtype=dtype)
    pipe.to("cuda" if gpu else "cpu")
    model = cvvae_jax.load(vae)
    require_scale(pipe.vae.config, vae=model)
    latents = generate(pipe, prompt, seed=seed, num_inference_steps=steps)
    write_image(output, decode(latents, model)[0])


if __name__ == "__main__":
    tyro.cli(main)

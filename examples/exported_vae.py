"""A VAE of cvvae_jax, exported, as the VAE of a pipeline of diffusers: all of it in PyTorch.

    pip install ".[pipelines]"
    python -m cvvae_jax convert runs/mine/image_vae mine-torch
    python -m examples.exported_vae --pipeline stable-diffusion-2-1-base \
        --vae mine-torch --prompt "a fox in the snow" --output fox.png

`convert` writes image VAEs as diffusers' AutoencoderKL and Stable Video Diffusion's as its
AutoencoderKLTemporalDecoder. It writes video VAEs as the classes of CV-VAE, which are not of
diffusers: docs/diffusion.md says what keeps them out of its pipelines, and what to do.
"""

import json
from pathlib import Path

import diffusers
import torch
import tyro

CLASSES = ("AutoencoderKL", "AutoencoderKLTemporalDecoder")
"""The classes of diffusers that `convert` writes for."""


def open_vae(folder: str, dtype: torch.dtype = torch.float32) -> diffusers.ModelMixin:
    """The VAE of a folder that `convert` wrote.

    Raises:
        ValueError: it is of a class that diffusers does not have.
    """
    name = json.loads((Path(folder) / "config.json").read_text())["_class_name"]
    if name not in CLASSES:
        raise ValueError(
            f"{folder} holds a {name}, which is no class of diffusers; its pipelines take "
            f"{' and '.join(CLASSES)}."
        )
    return getattr(diffusers, name).from_pretrained(folder, torch_dtype=dtype)


def main(
    *, pipeline: str, vae: str, prompt: str, output: str = "out.png", steps: int = 50, seed: int = 0
) -> None:
    """Write the image of a prompt, decoded in PyTorch.

    Args:
        pipeline: folder or name of a text-to-image pipeline.
        vae: the exported VAE.
        prompt: what the image shows.
        output: file to write: .png, .jpg or .webp.
        steps: denoising steps.
        seed: seed of the noise.
    """
    gpu = torch.cuda.is_available()
    dtype = torch.float16 if gpu else torch.float32
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        pipeline, vae=open_vae(vae, dtype), torch_dtype=dtype
    )
    pipe.to("cuda" if gpu else "cpu")
    generator = torch.Generator().manual_seed(seed)
    pipe(prompt, generator=generator, num_inference_steps=steps).images[0].save(output)


if __name__ == "__main__":
    tyro.cli(main)

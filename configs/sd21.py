"""CV-VAE for the latents of Stable Diffusion 2.1: a recipe that was never released.

    python train.py configs/sd21.py --data.videos DIR --data.images DIR2

This recipe has the paper's objective, and the architecture of the official SD2.1 weights ("v1",
"v1.1"). Its training settings are those of the only released configuration: see configs/sd3.py for
every setting and its source. configs/sd21_paper.py has the paper's own batches and learning rate.

Machine and time: as for configs/sd3.py, 200,000 steps on 8 GPUs in float32.

Figures of exactly this recipe have not been published. The nearest are the paper's for CV-VAE
(2D+3D): COCO 27.6 / .805 / .136, WebVid 28.5 / .817 / .143 (PSNR / SSIM / LPIPS, 256 x 256, 33
frames, stride 3).

Files: any VAE of Stable Diffusion 1.x or 2.x, and LPIPS; docs/weights.md says where to get them.
"""

import dataclasses
from pathlib import Path

from cvvae_jax.config import ImageVAEConfig, TrainConfig, VideoVAEConfig
from cvvae_jax.recipe import load_recipe

PARENT = Path(__file__).with_name("sd3.py")


def get_config() -> TrainConfig:
    """The recipe, as the top of this file describes it."""
    return dataclasses.replace(
        load_recipe(str(PARENT)),
        # The defaults of both dataclasses are the SD2.1 family's. The inflated video VAE does
        # nearly what the image VAE does, but not exactly: the official decoder has a temporal
        # attention after the spatial one, and its norms have another epsilon.
        image_model=ImageVAEConfig(),
        model=VideoVAEConfig(),
        image_vae="weights/sd21-vae",
        workdir="runs/sd21",
    )

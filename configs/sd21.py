"""CV-VAE for the latents of Stable Diffusion 2.1: a recipe that was never released.

    python train.py configs/sd21.py --data.videos DIR --data.images DIR2

The paper's objective and the SD2.1 architecture of the official weights ("v1", "v1.1"), with the
training settings of the one configuration that was released, configs/sd3.py: see there for every
setting and its source. configs/sd21_paper.py has the paper's own batches and learning rate.

Machine and time: as configs/sd3.py, 200,000 steps on 8 GPUs in float32.

Nobody has published figures of exactly this. The nearest are the paper's for CV-VAE (2D+3D): COCO
27.6 / .805 / .136, WebVid 28.5 / .817 / .143 (PSNR / SSIM / LPIPS, 256 x 256, 33 frames, stride 3).

Files: any Stable Diffusion 1.x or 2.x VAE, and LPIPS; docs/weights.md says where they are.
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
        # Both dataclasses' defaults are this family. Inflating the image VAE comes near its
        # function, but is not equal to it: the official decoder puts a temporal attention, which
        # starts at zero, behind the spatial one, and its norms have another epsilon.
        image_model=ImageVAEConfig(),
        model=VideoVAEConfig(),
        image_vae="weights/sd21-vae",
        workdir="runs/sd21",
    )

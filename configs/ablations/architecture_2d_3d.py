"""Ablation of the architecture: 2D+3D.

    python train.py configs/ablations/architecture_2d_3d.py --data.videos DIR --data.images DIR2

configs/sd21_paper.py with `model.half_3d` True, which is that recipe's own: the second convolution
of a residual block is per frame (68 M + 114 M parameters).

Expect what the paper states, PSNR of 27.6 dB on COCO, 28.5 dB on WebVid, or rather its distance to
the other rows.
"""

import dataclasses
from pathlib import Path

from cvvae_jax.config import TrainConfig
from cvvae_jax.recipe import load_recipe

PARENT = Path(__file__).parents[1] / "sd21_paper.py"


def get_config() -> TrainConfig:
    """The recipe, as the top of this file describes it."""
    config = load_recipe(str(PARENT))
    model = dataclasses.replace(config.model, half_3d=True)
    return dataclasses.replace(config, model=model, workdir="runs/ablations/architecture_2d_3d")

"""Ablation of the architecture: 3D.

    python train.py configs/ablations/architecture_3d.py --data.videos DIR --data.images DIR2

configs/sd21_paper.py with `model.half_3d` False: both convolutions of a residual block are 3-D
(encoder and decoder have 100 M and 156 M parameters).

Expect the paper's PSNR, 27.7 dB on COCO and 28.6 dB on WebVid, or at least its difference from the
other ablations'. The paper doesn't state how long and with which other settings they were trained;
configs/sd21_paper.py has the rows that are that recipe itself.
"""

import dataclasses
from pathlib import Path

from cvvae_jax.config import TrainConfig
from cvvae_jax.recipe import load_recipe

PARENT = Path(__file__).parents[1] / "sd21_paper.py"


def get_config() -> TrainConfig:
    """The recipe, as the top of this file describes it."""
    config = load_recipe(str(PARENT))
    model = dataclasses.replace(config.model, half_3d=False)
    return dataclasses.replace(config, model=model, workdir="runs/ablations/architecture_3d")

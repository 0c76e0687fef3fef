"""Ablation of the mapping: mean.

    python train.py configs/ablations/mapping_mean.py --data.videos DIR --data.images DIR2

configs/sd21_paper.py with `loss.mapping` `mean`: a latent frame is compared with the average of its
four frames.

Expect the paper's PSNR, 27.9 dB on WebVid, or at least its difference from the other ablations'.
The paper doesn't state how long and with which other settings they were trained;
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
    loss = dataclasses.replace(config.loss, mapping="mean")
    return dataclasses.replace(config, loss=loss, workdir="runs/ablations/mapping_mean")

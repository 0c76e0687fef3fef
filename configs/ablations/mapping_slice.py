"""Ablation of the mapping: slice.

    python train.py configs/ablations/mapping_slice.py --data.videos DIR --data.images DIR2

configs/sd21_paper.py with `loss.mapping` `slice`: a latent frame is compared with the last of its
four frames, so that these are frames 0, 4, 8, ...

Expect the paper's PSNR, 27.7 dB on WebVid, or at least its difference from the other ablations'.
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
    loss = dataclasses.replace(config.loss, mapping="slice")
    return dataclasses.replace(config, loss=loss, workdir="runs/ablations/mapping_slice")

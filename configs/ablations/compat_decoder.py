"""Ablation of latent regularization: decoder-based.

    python train.py configs/ablations/compat_decoder.py --data.videos DIR --data.images DIR2

configs/sd21_paper.py with `loss.compat_mode` `decoder`, which is that recipe's own: the frozen
image decoder shows the mapped frames from the video's latents.

Expect what the paper states, PSNR of 27.5 dB on COCO, 28.0 dB on WebVid, or rather its distance to
the other rows: how long and with which other settings its ablations were trained is not stated.
"""

import dataclasses
from pathlib import Path

from cvvae_jax.config import TrainConfig
from cvvae_jax.recipe import load_recipe

PARENT = Path(__file__).parents[1] / "sd21_paper.py"


def get_config() -> TrainConfig:
    """The recipe, as the top of this file describes it."""
    config = load_recipe(str(PARENT))
    loss = dataclasses.replace(config.loss, compat_mode="decoder")
    return dataclasses.replace(config, loss=loss, workdir="runs/ablations/compat_decoder")

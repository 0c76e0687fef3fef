"""Ablation of latent regularization: encoder-based.

    python train.py configs/ablations/compat_encoder.py --data.videos DIR --data.images DIR2

configs/sd21_paper.py with `loss.compat_mode` `encoder`: the video decoder reconstructs the video
from the frozen image encoder's latents of every fourth frame. As in the released code, these are
always the same frames (`loss.mapping` `slice`).

Expect the paper's PSNR, 26.0 dB on COCO and 26.0 dB on WebVid, or at least its difference from the
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
    loss = dataclasses.replace(config.loss, compat_mode="encoder", mapping="slice")
    return dataclasses.replace(config, loss=loss, workdir="runs/ablations/compat_encoder")

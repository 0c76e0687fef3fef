"""Ablation of latent regularization: both.

    python train.py configs/ablations/compat_both.py --data.videos DIR --data.images DIR2

configs/sd21_paper.py with `loss.compat_mode` `both`: the encoder-based half is averaged with the
reconstruction, and the decoder-based term added. `loss.mapping` `slice` is the encoder-based
half's, as in configs/ablations/compat_encoder.py. The other half shares it here; in the released
code it has a mapping of its own.

Expect what the paper states, PSNR of 27.9 dB on COCO, 27.6 dB on WebVid, or rather its distance to
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
    loss = dataclasses.replace(config.loss, compat_mode="both", mapping="slice")
    return dataclasses.replace(config, loss=loss, workdir="runs/ablations/compat_both")

"""Ablation of latent regularization: both.

    python train.py configs/ablations/compat_both.py --data.videos DIR --data.images DIR2

configs/sd21_paper.py with `loss.compat_mode` `both`: the encoder-based loss is averaged with the
reconstruction's, and the decoder-based loss is added. The encoder-based loss needs `loss.mapping`
`slice`, as in configs/ablations/compat_encoder.py. The decoder-based loss shares it here; in the
released code it has a mapping of its own.

Expect the paper's PSNR, 27.9 dB on COCO and 27.6 dB on WebVid, or at least its difference from the
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
    loss = dataclasses.replace(config.loss, compat_mode="both", mapping="slice")
    return dataclasses.replace(config, loss=loss, workdir="runs/ablations/compat_both")

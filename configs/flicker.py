"""Against flicker: the decoder of the official CV-VAE (SD2.1 family) alone is tuned, on one
accelerator. Every latent that was ever written stays valid.

    python train.py configs/flicker.py --data.videos DIR --data.images DIR2

The encoder is frozen (`train.trainable decoder`), so that data sets of latents, and the diffusion
models that were trained on them, need nothing new: they get a decoder that flickers less. Frozen
parameters are the same to the bit at the end, which the run itself checks. From configs/finetune.py
it differs in these settings:

- the decoder alone is trained, with moments and averages of the decoder alone;
- the changes between frames count: those within a latent frame's group (`loss.difference_weight`),
  and those at the boundaries of groups (`loss.boundary_weight`), where a decoder flickers most;
- compatibility of the image encoder's latents with the video decoder is held by the encoder-based
  term: the decoder has to show the video from the frozen image encoder's latents, too. The other
  direction, the image decoder on the video's latents, can't change where the encoder is frozen; nor
  can the KL, which is left out;
- batches of images and of videos take turns with equal chances, since a decoder that is tuned on
  videos alone forgets single images.

Machine and time: as for configs/finetune.py, with less memory; `--dry-run` prints how much.

There are no published figures to expect, and the two weights have not been tuned. To know what a
run gained, measure flicker, seams and reconstruction before and after with `eval.py` on the same
clips: the weights that it starts from are a contender by their path.

Files (see docs/weights.md): those of configs/finetune.py.
"""

import dataclasses
from pathlib import Path

from cvvae_jax.config import TrainConfig
from cvvae_jax.recipe import load_recipe

PARENT = Path(__file__).with_name("finetune.py")


def get_config() -> TrainConfig:
    """The recipe, as the top of this file describes it."""
    config = load_recipe(str(PARENT))
    loss = dataclasses.replace(
        config.loss,
        compat_mode="encoder",
        mapping="slice",
        difference_weight=1.0,
        boundary_weight=1.0,
        kl_weight=0.0,
    )
    return dataclasses.replace(
        config,
        loss=loss,
        train=dataclasses.replace(config.train, trainable="decoder"),
        workdir="runs/flicker",
    )

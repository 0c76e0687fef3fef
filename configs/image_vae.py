"""The quickstart's image VAE, which comes with the package: stage 1 alone, on photos.

    python train.py configs/image_vae.py --data.photos DIR

An image VAE with 4 x 4 pixels per latent and 16 channels learns from moving photographs, single
frames of them, of the photos in DIR and scikit-image's. Half of them get other colors, and a third
plain rectangles of saturated colors: that is what teaches a small network all hues.

The pixel error is squared. Of 4 x 4 pixels, brightness alone would fill the 16 channels, and by
absolute errors its finest detail counts as much as a color: a run kept one of the two dimensions of
color for 3700 steps, and showed all hues as orange or blue.

The run folder's `image_vae/` holds the result, which `--image-vae` of other recipes takes.
cvvae_jax/pretrained/README.md, the card of the published weights, says what they were
trained on, and how well they do. The same command with more steps goes on from the newest
checkpoint: `--image-train.steps 20000`.
"""

import dataclasses
from pathlib import Path

from cvvae_jax.config import Bucket, DataConfig, OptimizerConfig, StageConfig, TrainConfig
from cvvae_jax.recipe import load_recipe

PARENT = Path(__file__).parent / "quickstart.py"


def get_config() -> TrainConfig:
    """The recipe, as the top of this file describes it."""
    parent = load_recipe(str(PARENT))
    return dataclasses.replace(
        parent,
        image_vae=None,
        image_only=True,
        image_train=StageConfig(
            steps=8000,
            buckets=(Bucket(frames=1, size=40, batch=4),),
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100),
            ema_decay=0.998,
            log_every=50,
            eval_every=2000,
            checkpoint_every=250,
        ),
        data=DataConfig(eval_clips=16, recolor=True),
        loss=dataclasses.replace(parent.loss, recon="l2"),
        workdir="runs/image_vae",
    )

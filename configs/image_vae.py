"""An image VAE alone, on photos: stage 1 of the quickstart, longer and in all colors.

    python train.py configs/image_vae.py --data.photos DIR

An image VAE (0.24 M parameters, 4 x 4 pixels per latent, 16 channels) learns from moving
photographs, single frames of them, of the photos in DIR and scikit-image's. Half of them get other
colors, and a third plain rectangles of saturated colors.

The pixel error is squared. By absolute errors, fine detail counts as much as a color, and 16
channels can be filled with the brightness of 4 x 4 pixels alone: a run of 3700 steps had 28.6 dB on
unseen photos of 128 x 128, and kept one of the two dimensions of color, so that it showed all hues
as orange or blue, 84 degrees off for the worst patch of the test chart. 190 steps of squared errors
later, that was 10 degrees. A run of squared errors from the first step has not been done yet: look
at `hue` and `chroma` in scores.json.

The run folder's `image_vae/` holds the result, which `--image-vae` of other recipes takes. The same
command with more steps, such as `--image-train.steps 20000`, goes on from the newest checkpoint.
"""

import dataclasses
from pathlib import Path

from cvvae_jax.config import Bucket, DataConfig, OptimizerConfig, StageConfig, TrainConfig
from cvvae_jax.recipe import load_recipe

PARENT = Path(__file__).parent / "quickstart.py"


def get_config() -> TrainConfig:
    """The recipe, as the top of this file describes it."""
    parent = load_recipe(str(PARENT))
    # One group: of all 16 channels, a norm removes only one mean.
    norms = {"norm_groups": 1}
    return dataclasses.replace(
        parent,
        image_model=dataclasses.replace(parent.image_model, **norms),
        model=dataclasses.replace(parent.model, **norms),
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

"""CV-VAE for the latents of Stable Diffusion 2.1, with the paper's batches and learning rate.

    python train.py configs/sd21_paper.py --data.videos DIR --data.images DIR2

What the paper gives: four buckets and their shares, their batches on 16 A100, 1e-4 with a cosine,
200,000 steps, float32. What it doesn't give is the released code's, which trains SD3: warm-up and
floor of the cosine, AdamW's numbers, the discriminator's learning rate, crops, weights of the
losses. See configs/sd3.py for these.

Machine and time: 200,000 steps on 16 A100, says the paper, and not how long. Batches are global; on
fewer devices, `--train.accumulate` takes them in parts (16 on one device, 8 on two).

Expect what the paper states for CV-VAE (2D+3D) (PSNR / SSIM / LPIPS, 256 x 256, 33 frames, stride
3): COCO 27.6 / .805 / .136, WebVid 28.5 / .817 / .143. We have not trained it. The table at the
end of a run is of your own held-out clips, and not comparable.

The paper's ablations are variants of this recipe, in configs/ablations/.
"""

import dataclasses
from pathlib import Path

from cvvae_jax.config import Bucket, TrainConfig
from cvvae_jax.recipe import load_recipe

PARENT = Path(__file__).with_name("sd21.py")
GPUS = 16  # of the paper's run, whose batches are taken to be per GPU


def get_config() -> TrainConfig:
    """The recipe, as the top of this file describes it."""
    config = load_recipe(str(PARENT))
    optimizer = dataclasses.replace(
        config.train.optimizer,
        learning_rate=1e-4,  # the released configuration: 4e-5
        # The paper's cosine, over all steps; the released one has a period of 60,000 steps.
        schedule="cosine",
        period_steps=None,
    )
    train = dataclasses.replace(
        config.train,
        buckets=(
            # The released configuration: 320 x 320 and 17 frames of 256 x 256, half each.
            Bucket(frames=1, size=256, batch=8 * GPUS, weight=0.40),
            Bucket(frames=1, size=512, batch=2 * GPUS, weight=0.10),
            Bucket(frames=9, size=256, batch=1 * GPUS, weight=0.25),
            Bucket(frames=17, size=192, batch=1 * GPUS, weight=0.25),
        ),
        optimizer=optimizer,
    )
    return dataclasses.replace(
        config,
        train=train,
        image_train=dataclasses.replace(train, buckets=train.buckets[:2]),
        workdir="runs/sd21_paper",
    )

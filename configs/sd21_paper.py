"""CV-VAE for the latents of Stable Diffusion 2.1, with the paper's batches and learning rate.

    python train.py configs/sd21_paper.py --data.videos DIR --data.images DIR2

The paper gives four buckets and their shares, their batches on 16 A100, a learning rate of 1e-4
with a cosine, 200,000 steps, and float32. All other settings are those of the released code, which
trains SD3 (see configs/sd3.py): warm-up and floor of the cosine, AdamW's settings, the
discriminator's learning rate, crops, and weights of the losses.

Machine and time: 200,000 steps on 16 A100, says the paper, but not how long they took. Batches are
global; on fewer devices, `--train.accumulate` computes them in parts (16 on one device, 8 on two).

Expect what the paper states for CV-VAE (2D+3D) (PSNR / SSIM / LPIPS, 256 x 256, 33 frames, stride
3): COCO 27.6 / .805 / .136, WebVid 28.5 / .817 / .143. We have not trained it. The table at the
end of a run measures your own held-out clips, and can't be compared with these.

The paper's ablations are variants of this recipe, in configs/ablations/. Three of their rows are
this recipe itself, and have no file there. The paper states their PSNR:

- architecture 2D+3D, `model.half_3d` True: COCO 27.6 dB, WebVid 28.5 dB;
- decoder-based regularization, `loss.compat_mode` `decoder`: COCO 27.5 dB, WebVid 28.0 dB;
- random mapping, `loss.mapping` `random`: WebVid 28.4 dB.
"""

import dataclasses
from pathlib import Path

from cvvae_jax.config import Bucket, TrainConfig
from cvvae_jax.recipe import load_recipe

PARENT = Path(__file__).with_name("sd21.py")
GPUS = 16  # as in the paper, whose batches we take to be per GPU


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

"""Fine-tuning of the official CV-VAE (SD2.1 family) on data of your own, on one accelerator.

    python train.py configs/finetune.py --data.videos DIR --data.images DIR2

The run starts from the weights of CV-VAE v1.1 rather than from inflation, and goes on with the
objective that they were trained with (configs/sd21.py), so that latents stay compatible with the
image VAE. It is cheap because of these settings:

- 4000 steps at a quarter of the official learning rate, with small batches;
- every step updates both networks, from one forward pass, rather than one of them;
- all networks compute in bfloat16, while parameters, moments and averages are float32;
- the backward pass computes activations inside of blocks again.

Machine and time: one accelerator. `--dry-run` prints how much memory it takes; if that is too much,
`--train.accumulate 2` computes batches in halves. On several devices, raise the batches.

There are no published figures to expect. To know what a run gained, measure the weights that it
starts from on the same clips, by the same command with `--train.steps 1
--train.optimizer.learning-rate 0 --workdir runs/before`.

Files (see docs/weights.md): the published CV-VAE v1.1, in float16 (training keeps parameters in
float32), the image VAE that it was trained against, and LPIPS.
"""

import dataclasses
from pathlib import Path

from cvvae_jax.config import Bucket, TrainConfig
from cvvae_jax.recipe import load_recipe

PARENT = Path(__file__).with_name("sd21.py")


def get_config() -> TrainConfig:
    """The recipe, as the top of this file describes it."""
    config = load_recipe(str(PARENT))
    optimizer = dataclasses.replace(
        config.train.optimizer,
        learning_rate=1e-5,
        # The VAE learns slowly at first, while the discriminator, whose weights are random, learns
        # at its full rate.
        warmup_steps=500,
        schedule="cosine",
        period_steps=None,
    )
    train = dataclasses.replace(
        config.train,
        steps=4000,
        buckets=(
            Bucket(frames=1, size=256, batch=8, weight=0.5),
            Bucket(frames=17, size=256, batch=2, weight=0.5),
        ),
        optimizer=optimizer,
        updates="joint",
        ema_decay=0.999,
        checkpoint_every=500,
        log_every=20,
        eval_every=500,
    )
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dtype="bfloat16"),
        discriminator=dataclasses.replace(config.discriminator, dtype="bfloat16"),
        frozen_dtype="bfloat16",
        init_weights="weights/cvvae-v1-1",
        train=train,
        image_train=dataclasses.replace(train, buckets=train.buckets[:1]),
        data=dataclasses.replace(config.data, workers=8),
        matmul_precision="default",
        workdir="runs/finetune",
    )

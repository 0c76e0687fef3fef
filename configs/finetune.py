"""Fine-tuning of the official CV-VAE (SD2.1 family) on data of your own, on one accelerator.

    python train.py configs/finetune.py --data.videos DIR --data.images DIR2

Starts from the weights of CV-VAE v1.1 in place of inflation and goes on with the objective it was
trained with, configs/sd21.py, so that latents stay those of the image VAE. What makes it cheap:

- 4000 steps at a quarter of the official learning rate, with small batches;
- both networks are updated in every step, from one forward pass, rather than in turns;
- bfloat16 in all networks; parameters, moments and averages are float32;
- activations inside of blocks are computed again in the backward pass.

Machine and time: one accelerator. `--dry-run` prints what it needs of yours; if that is too much,
`--train.accumulate 2` takes batches in halves. On several devices, raise the batches.

Nothing has been published to expect. To know what it gained, measure the weights you start from on
the same clips: the same command with `--train.steps 1 --train.optimizer.learning-rate 0 --workdir
runs/before`.

Files (docs/weights.md): CV-VAE v1.1 as it is published (float16; parameters are float32 in
training), the image VAE that it was trained against, and LPIPS.
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
        # Its weights being new, the discriminator learns at full speed from the first step, while
        # the VAE waits for it.
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

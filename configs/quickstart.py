"""Quickstart: a small compatible video VAE in minutes, on a laptop, with no download."""

from cvvae_jax.config import (
    Bucket,
    DataConfig,
    ImageVAEConfig,
    LossConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
    VideoVAEConfig,
)


def get_config() -> TrainConfig:
    """The recipe; see the top of the file."""
    shared = {
        "block_channels": (16, 32, 32),
        "blocks_per_level": 1,
        "latent_channels": 16,
        "norm_groups": 4,
        "norm_eps": 1.0,
        "mid_attention": False,
    }
    return TrainConfig(
        image_model=ImageVAEConfig(quant_conv=False, **shared),
        model=VideoVAEConfig(
            temporal_strides=(2, 2),
            temporal_padding="edge",
            decoder_attention="spatial",
            **shared,
        ),
        image_train=StageConfig(
            steps=2500,
            buckets=(Bucket(frames=1, size=32, batch=8),),
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=50, ema_decay=0.99),
            log_every=50,
            eval_every=500,
        ),
        train=StageConfig(
            steps=300,
            buckets=(
                Bucket(frames=9, size=32, batch=4, weight=3.0),
                Bucket(frames=1, size=32, batch=8, weight=1.0),
            ),
            optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20, ema_decay=0.98),
            log_every=20,
            eval_every=100,
        ),
        data=DataConfig(eval_clips=16),
        loss=LossConfig(kl_weight=1e-3),
        workdir="runs/quickstart",
    )

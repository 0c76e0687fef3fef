"""Quickstart: a small compatible video VAE in minutes, on two CPU cores, with no download.

    python train.py configs/quickstart.py

Stage 1 trains an image VAE (0.24 M parameters, 4 x 4 pixels per latent, 16 channels) on photos from
scikit-image. Stage 2 inflates it to a video VAE (0.58 M parameters, 4 frames per latent frame), and
trains that against the frozen image VAE, with L1, KL, and the decoder-based compatibility loss with
random mapping. Three of four batches are moving photographs, the fourth is photos.

The run takes 6 to 15 minutes on two cores. Expect a PSNR on unseen clips of about 28 dB for the
reconstruction, and 28 dB for the image decoder on the video's latents; scaling down to the latent
grid and up again gives 26.6 dB. docs/quickstart.md has the measurements.

A latent number stands for 12 numbers of the video, and in Stable Diffusion for 192: so small a
network learns the task within minutes only if the bottleneck is wide.
"""

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
    """The recipe, as the top of this file describes it."""
    shared = {
        "block_channels": (16, 32, 32),
        "blocks_per_level": 1,
        "latent_channels": 16,
        "norm_groups": 4,
        # A norm removes the brightness and contrast of the few channels of a group, which so narrow
        # a network can't recover (17 dB after 400 steps). A large epsilon keeps most of both.
        "norm_eps": 1.0,
        "mid_attention": False,  # it would slow learning down more than it adds here
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
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=50),
            ema_decay=0.99,
            log_every=50,
            eval_every=500,
        ),
        train=StageConfig(
            steps=300,
            buckets=(
                Bucket(frames=9, size=32, batch=4, weight=3.0),
                Bucket(frames=1, size=32, batch=8, weight=1.0),
            ),
            optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20),
            ema_decay=0.98,
            log_every=20,
            eval_every=100,
        ),
        data=DataConfig(eval_clips=16),
        loss=LossConfig(kl_weight=1e-3, lpips_weight=0.0, gan="none"),
        workdir="runs/quickstart",
    )

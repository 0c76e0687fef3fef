"""Quickstart: a small compatible video VAE in minutes, on two CPU cores, with no download.

    python train.py configs/quickstart.py

An image VAE (0.24 M parameters, 4 x 4 pixels per latent, 16 channels) comes with the package, as
Stable Diffusion's would be downloaded; configs/image_vae.py has trained it. The run inflates it to
a video VAE (0.58 M parameters, 4 frames per latent frame), and trains that against the frozen image
VAE, with L1, KL, and the decoder-based compatibility loss with random mapping. Four of five batches
are moving photographs, the fifth is photos. With `--image-vae None`, an image VAE is trained first.

The run takes four to five minutes on two idle cores. Expect a PSNR on unseen clips of about 32 dB
for the reconstruction, and 31 dB for the image decoder on the video's latents; scaling down to the
latents' height and width and up again gives 27.3 dB. docs/quickstart.md has the measurements.

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
        # A norm removes the brightness and contrast of the channels of a group, which so narrow a
        # network can't recover: 17 dB after 400 steps with four groups and a small epsilon. One
        # group and a large epsilon keep most of both.
        "norm_groups": 1,
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
        image_vae="pretrained:image_vae",
        image_train=StageConfig(
            steps=2500,
            buckets=(Bucket(frames=1, size=48, batch=4),),
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100),
            ema_decay=0.99,
            log_every=50,
            eval_every=500,
        ),
        train=StageConfig(
            steps=300,
            buckets=(
                Bucket(frames=9, size=64, batch=2, weight=4.0),
                Bucket(frames=1, size=64, batch=4, weight=1.0),
            ),
            optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=10),
            ema_decay=0.98,
            log_every=20,
            eval_every=100,
        ),
        data=DataConfig(eval_clips=16, recolor=True),
        loss=LossConfig(kl_weight=1e-3, lpips_weight=0.0, gan="none"),
        workdir="runs/quickstart",
    )

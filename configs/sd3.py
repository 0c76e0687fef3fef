"""CV-VAE-SD3: the official recipe as released, for the latents of Stable Diffusion 3.

    python train.py configs/sd3.py --data.videos DIR --data.images DIR2

SD3's image VAE is inflated to a video VAE, whose latents have 16 channels for 4 frames of 8 x 8
pixels. The video VAE is trained against the frozen image VAE: with L1 and LPIPS, KL, the
decoder-based compatibility loss with random mapping, and a 3-D discriminator, which is trained in
every second step.

Machine and time: 200,000 steps, which the official launcher runs on 8 GPUs in float32. How long
they take has not been published. `--dry-run` prints operations and memory for your devices, and a
run prints its speed. Batches are global; on fewer devices, `--train.accumulate` computes them in
parts (8 on one device, 4 on two).

Expect what the paper states for CV-VAE-SD3 (PSNR / SSIM / LPIPS, 256 x 256, 33 frames, stride 3):
COCO 33.6 / .916 / .072, WebVid 32.0 / .899 / .087. We have not trained it. The table at the end of
a run measures your own held-out clips, and can't be compared with these.

Files: docs/weights.md says where to get SD3's VAE and the two files of LPIPS, and how to convert
them. Settings are those of the released configuration and code (AILab-CVC/CV-VAE) unless a comment
says otherwise.
"""

import dataclasses

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

GPUS = 8  # as in the official run, whose batches are stated per GPU


def get_config() -> TrainConfig:
    """The recipe, as the top of this file describes it."""
    latents = {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
    adamw = {"beta1": 0.9, "beta2": 0.98, "eps": 1e-4, "weight_decay": 0.01, "clip_norm": 1.0}
    train = StageConfig(
        steps=200_000,
        buckets=(
            # In the official run every GPU draws its own bucket; here all devices share one.
            # The paper has four buckets (SD2.1): see configs/sd21_paper.py.
            Bucket(frames=1, size=320, batch=8 * GPUS, weight=0.5),
            Bucket(frames=17, size=256, batch=1 * GPUS, weight=0.5),
        ),
        optimizer=OptimizerConfig(
            learning_rate=4e-5,  # the paper: 1e-4
            # After 60,000 steps the official cosine rises again. It is at the peak at 119,000, at
            # the floor at 178,000, and at 30 % of the peak at the end. The paper only says
            # "cosine"; --train.optimizer.schedule cosine stays at the floor.
            schedule="cosine_unclamped",
            warmup_steps=1000,
            period_steps=60_000,
            final_fraction=0.005,
            **adamw,
        ),
        gan_optimizer=OptimizerConfig(
            learning_rate=2e-5, schedule="constant", warmup_steps=0, **adamw
        ),
        updates="alternate",
        remat="blocks",
        # The official run keeps no averaged parameters. Ours don't change training; evaluations and
        # `load` use them. With --train.ema-decay 0 they equal the parameters.
        ema_decay=0.9999,
        checkpoint_every=2000,
        log_every=50,
        eval_every=5000,
    )
    return TrainConfig(
        image_model=ImageVAEConfig(quant_conv=False, **latents),
        model=VideoVAEConfig(
            norm_eps=1e-6,
            spatial_padding="edge",
            temporal_padding="edge",
            downsample_padding="symmetric",
            decoder_attention="spatial",
            **latents,
        ),
        train=train,
        # Only used with --image-vae None, where the run trains the image VAE.
        image_train=dataclasses.replace(train, buckets=train.buckets[:1]),
        image_vae="weights/sd3-vae",
        init="inflate",  # the paper; the released configuration names a checkpoint of its own
        lpips="weights/lpips",
        data=DataConfig(
            videos="data/videos",  # the paper: WebVid-10M
            images="data/images",  # the paper: LAION-COCO and Unsplash
            max_stride=8,
            short_side=512,  # images are resized to the bucket's size, and cropped in the middle
            workers=16,
        ),
        loss=LossConfig(
            recon="l1",
            lpips_weight=0.5,
            log_scale=0.0,
            kl_weight=1.0,
            compat_mode="decoder",
            compat_weight=1.0,
            compat_recon="l1",
            compat_lpips_weight=0.0,
            mapping="random",
            gan="hinge",
            gan_weight=0.5,
            # Released: 1. The first step has no GAN loss there, but its learning rate is 0.
            gan_start_step=0,
        ),
        # For float32 products, GPUs then use TF32, and TPUs three passes of bfloat16. `highest` is
        # full float32 on both.
        matmul_precision="high",
        workdir="runs/sd3",
    )

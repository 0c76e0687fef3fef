"""Pipelines of diffusers with tiny random networks, made from configurations: nothing is loaded."""

import json

import diffusers
import numpy as np
import torch
from flax import nnx
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

import cvvae_jax
from cvvae_jax.config import VideoVAEConfig
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE, function_preserving, inflate

WIDTH = 8
"""Channels of text, and of attention over it."""
WORDS = ("<|startoftext|>", "<|endoftext|>", "a</w>", "fox</w>")
LEVELS = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4}
VAE_LEVELS = 3
"""Four pixels a latent, along height and along width, and time for two doublings."""
ATTENTION = {"cross_attention_dim": WIDTH, "attention_head_dim": 2}


def image_vae(**settings) -> diffusers.AutoencoderKL:
    vae = diffusers.AutoencoderKL(
        **LEVELS | {"block_out_channels": (8,) * VAE_LEVELS},
        down_block_types=("DownEncoderBlock2D",) * VAE_LEVELS,
        up_block_types=("UpDecoderBlock2D",) * VAE_LEVELS,
        **{"latent_channels": 4, **settings},
    )
    return randomize(vae)


def converted(vae: diffusers.ModelMixin, folder):
    """The same VAE in JAX, through the files that diffusers writes."""
    vae.save_pretrained(folder)
    return cvvae_jax.load(folder)


def video_vae(image: ImageVAE) -> VideoVAE:
    """A video VAE that computes an image VAE's function on images and on static videos."""
    shape = {"block_channels": image.config.block_channels, "blocks_per_level": 1}
    config = VideoVAEConfig(**shape, norm_groups=4, temporal_strides=(2, 2))
    return inflate(image, function_preserving(config, image.config), rngs=nnx.Rngs(0))


WITHOUT_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}
"""Settings of image VAEs that can be inflated exactly."""


def randomize(model):
    """Norms and biases too, which start as ones and zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def text_parts(folder) -> dict:
    """A tokenizer, whose files are written to a folder, and a text encoder."""
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=5)
    return {"tokenizer": tokenizer, "text_encoder": CLIPTextModel(text_config()).eval()}


def text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=5,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def unet(**settings) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        **LEVELS,
        **ATTENTION | settings,
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def scheduler() -> diffusers.DDIMScheduler:
    return diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def stable_diffusion(folder, vae) -> diffusers.StableDiffusionPipeline:
    channels = vae.config.latent_channels
    return quiet(
        diffusers.StableDiffusionPipeline(
            **text_parts(folder),
            vae=vae,
            unet=unet(in_channels=channels, out_channels=channels),
            scheduler=scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def stable_diffusion_xl(folder, vae) -> diffusers.StableDiffusionXLPipeline:
    parts = text_parts(folder)
    conditioned = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 2,
        "projection_class_embeddings_input_dim": WIDTH + 6 * 2,
        "cross_attention_dim": 2 * WIDTH,
    }
    return quiet(
        diffusers.StableDiffusionXLPipeline(
            **parts,
            tokenizer_2=parts["tokenizer"],
            text_encoder_2=CLIPTextModelWithProjection(text_config()).eval(),
            vae=vae,
            unet=unet(**conditioned),
            scheduler=scheduler(),
            add_watermarker=False,
        )
    )


def stable_diffusion_3(folder, vae) -> diffusers.StableDiffusion3Pipeline:
    """Without the third text encoder, which the pipeline can do without."""
    parts = text_parts(folder)
    network = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=8,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
    )
    return quiet(
        diffusers.StableDiffusion3Pipeline(
            transformer=network,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            vae=vae,
            tokenizer=parts["tokenizer"],
            tokenizer_2=parts["tokenizer"],
            tokenizer_3=None,
            text_encoder=CLIPTextModelWithProjection(text_config()).eval(),
            text_encoder_2=CLIPTextModelWithProjection(text_config()).eval(),
            text_encoder_3=None,
        )
    )


def animate_diff(folder, vae) -> diffusers.AnimateDiffPipeline:
    motion = diffusers.MotionAdapter(
        block_out_channels=LEVELS["block_out_channels"],
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
    )
    return quiet(
        diffusers.AnimateDiffPipeline(
            **text_parts(folder),
            vae=vae,
            unet=unet(),
            motion_adapter=motion,
            scheduler=scheduler(),
        )
    )


def text_to_video(folder, vae) -> diffusers.TextToVideoSDPipeline:
    network = diffusers.UNet3DConditionModel(
        **LEVELS,
        **ATTENTION,
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )
    return quiet(
        diffusers.TextToVideoSDPipeline(
            **text_parts(folder), vae=vae, unet=network, scheduler=scheduler()
        )
    )


def svd_vae() -> diffusers.AutoencoderKLTemporalDecoder:
    return randomize(
        diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=(32,) * VAE_LEVELS,
            down_block_types=("DownEncoderBlock2D",) * VAE_LEVELS,
            layers_per_block=1,
        )
    )


def stable_video_diffusion(vae) -> diffusers.StableVideoDiffusionPipeline:
    network = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 32),
        layers_per_block=1,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=WIDTH,
        num_attention_heads=2,
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12,
    )
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,  # the pipeline resizes to it
        patch_size=112,
    )
    return quiet(
        diffusers.StableVideoDiffusionPipeline(
            vae=vae,
            image_encoder=CLIPVisionModelWithProjection(vision).eval(),
            unet=network,
            scheduler=diffusers.EulerDiscreteScheduler(
                prediction_type="v_prediction",
                timestep_type="continuous",
                sigma_min=0.002,
                sigma_max=700.0,
                timestep_spacing="leading",
            ),
            feature_extractor=CLIPImageProcessor(
                crop_size={"height": 224, "width": 224}, size={"shortest_edge": 224}
            ),
        )
    )


def quiet(pipe: diffusers.DiffusionPipeline) -> diffusers.DiffusionPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_all(folder) -> None:
    """Pipelines, VAEs and a picture under the names that docs/diffusion.md uses."""
    theirs = image_vae(**WITHOUT_QUANT)
    pipe = stable_diffusion(folder / "text", theirs)
    for name in ("stable-diffusion-2-1", "stable-diffusion-1-5"):
        pipe.save_pretrained(folder / name)
    animate_diff(folder / "text 2", theirs).motion_adapter.save_pretrained(folder / "animatediff")
    stable_video_diffusion(svd_vae()).save_pretrained(folder / "stable-video-diffusion")
    image = converted(theirs, folder / "theirs")
    cvvae_jax.save(image, folder / "runs/mine/image_vae")
    cvvae_jax.save(video_vae(image), folder / "CV-VAE/vae3d_v1-1")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "fox.png")

"""Our models equal the official ones: every golden file of the folder, by kind."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import (
    FOLDER,
    assert_equal,
    build,
    cases,
    channels_last,
    golden_input,
    golden_tensor,
    random_state,
    read,
)

from cvvae_jax.codec.codec import Codec
from cvvae_jax.config import (
    DiscriminatorConfig,
    I3DConfig,
    ImageVAEConfig,
    LPIPSConfig,
    SVDVAEConfig,
    VideoVAEConfig,
)
from cvvae_jax.convert.names import (
    diffusers_names,
    discriminator_names,
    i3d_names,
    ldm_names,
    lpips_names,
    svd_names,
)
from cvvae_jax.losses import lpips
from cvvae_jax.models import video_vae
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.feature_networks.i3d import I3D
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.svd_vae import SVDVAE
from cvvae_jax.models.video_vae import VideoVAE

KINDS = (
    "image_vae",
    "video_vae",
    "video_vae_tiled",
    "svd_vae",
    "discriminator",
    "lpips",
    "i3d",
    "train_step",
)


def video_config(golden: dict) -> VideoVAEConfig:
    """Our config for an official one; both families name the same things differently."""
    official, base = golden["config"], video_vae.PRESETS[golden["family"]]
    common = {name: official[name] for name in ("half_3d", "causal_encoder", "causal_decoder")}
    if golden["family"] == "sd3":
        return dataclasses.replace(
            base,
            block_channels=tuple(official["block_out_channels"]),
            blocks_per_level=official["layers_per_block"],
            latent_channels=official["out_channels"],
            norm_groups=official["norm_num_groups"],
            mid_attention=official["mid_block_add_attention"],
            causal_upsampling=official["causal_decoder"],
            **common,
        )
    attention = "spatial_temporal" if "temporal" in official["decoder_attn_type"] else "spatial"
    return dataclasses.replace(
        base,
        block_channels=tuple(official["ch"] * m for m in official["ch_mult"]),
        blocks_per_level=official["num_res_blocks"],
        latent_channels=official["z_channels"],
        decoder_attention=attention,
        **common,
    )


def image_config(golden: dict) -> ImageVAEConfig:
    official = golden["config"]
    return ImageVAEConfig(
        block_channels=tuple(official["block_out_channels"]),
        blocks_per_level=official["layers_per_block"],
        latent_channels=official["latent_channels"],
        norm_groups=official["norm_num_groups"],
        mid_attention=official["mid_block_add_attention"],
        quant_conv=official["use_quant_conv"],
    )


def svd_config(golden: dict) -> SVDVAEConfig:
    official = golden["config"]
    return SVDVAEConfig(
        block_channels=tuple(official["block_out_channels"]),
        blocks_per_level=official["layers_per_block"],
        latent_channels=official["latent_channels"],
    )


def video_model(golden: dict, dtype: str) -> VideoVAE:
    config = dataclasses.replace(video_config(golden), dtype=dtype)
    rows = (
        diffusers_names()
        if golden["family"] == "sd3"
        else ldm_names(len(config.block_channels), image=False)
    )
    return build(VideoVAE, config, golden, rows)


def image_model(golden: dict, dtype: str) -> ImageVAE:
    config = dataclasses.replace(image_config(golden), dtype=dtype)
    return build(ImageVAE, config, golden, diffusers_names())


@jax.jit
def outputs(vae, video):
    moments = vae.moments(video)
    return moments, vae.decode(jnp.split(moments, 2, axis=-1)[0])


def video_outputs(vae, video, official: dict):
    """Whole, or in the official chunks and tiles where the video is longer or larger than one."""
    _, frames, height, width, _ = video.shape
    chunk = official["en_de_n_frames_a_time"] or 4 * frames
    tile = official["tile_spatial_size"] or 8 * max(height, width)
    if frames <= chunk + 1 and max(height, width) <= tile:
        return outputs(vae, video)
    overlap = official["tile_overlap_ratio"]
    codec = Codec(vae, chunk_frames=chunk, tile=tile, overlap=overlap, devices=jax.devices()[:1])
    posterior = codec.posterior(video)
    decoded = codec.decode(posterior.mode())[:, :frames, :height, :width]
    return jnp.concatenate([posterior.mean, posterior.logvar], axis=-1), decoded


def test_folder_holds_golden_files():
    """Our folder needs files of every kind, another one files of any: tests without a case only
    skip."""
    enough = any if "CVVAE_GOLDEN" in os.environ else all
    assert enough(cases(kind, "float32") for kind in KINDS), FOLDER


@pytest.mark.parametrize(("name", "case", "dtype"), cases("video_vae", "float32", "bfloat16"))
def test_video_vae_equals_official(name, case, dtype):
    golden, arrays = read(name)
    video = channels_last(golden_input(name, case, golden["cases"][case]))
    moments, decoded = video_outputs(video_model(golden, dtype), video, golden["config"])
    assert_equal(moments, channels_last(arrays[f"{case}.moments"]), dtype)
    assert_equal(decoded, channels_last(arrays[f"{case}.decoded"]), dtype)


@pytest.mark.parametrize(("name", "case", "dtype"), cases("video_vae_tiled", "float32"))
def test_chunked_and_tiled_equals_official(name, case, dtype):
    test_video_vae_equals_official(name, case, dtype)


@pytest.mark.parametrize(("name", "case", "dtype"), cases("image_vae", "float32", "bfloat16"))
def test_image_vae_equals_diffusers(name, case, dtype):
    golden, arrays = read(name)
    frames = channels_last(golden_input(name, case, golden["cases"][case]))[:, None]
    moments, decoded = outputs(image_model(golden, dtype), frames)
    assert_equal(moments[:, 0], channels_last(arrays[f"{case}.moments"]), dtype)
    assert_equal(decoded[:, 0], channels_last(arrays[f"{case}.decoded"]), dtype)


@pytest.mark.parametrize(("name", "case", "dtype"), cases("svd_vae", "float32"))
def test_svd_vae_equals_diffusers(name, case, dtype):
    """The frames of a case are one video, decoded together."""
    golden, arrays = read(name)
    video = channels_last(golden_input(name, case, golden["cases"][case]))
    moments, decoded = outputs(build(SVDVAE, svd_config(golden), golden, svd_names()), video)
    assert_equal(moments[0], channels_last(arrays[f"{case}.moments"]), dtype)
    assert_equal(decoded[0], channels_last(arrays[f"{case}.decoded"]), dtype)


@pytest.mark.parametrize(("name", "case", "dtype"), cases("discriminator", "float32"))
def test_discriminator_equals_official(name, case, dtype):
    golden, arrays = read(name)
    base, layers = golden["config"]["ndf"], golden["config"]["n_layers"]
    config = DiscriminatorConfig(base_channels=base, layers=layers)
    network = build(Discriminator, config, golden, discriminator_names(layers))
    video = channels_last(golden_input(name, case, golden["cases"][case]))
    logits = jax.jit(lambda network, video: network(video))(network, video)
    assert_equal(logits, channels_last(arrays[f"{case}.logits"]), dtype)


def lpips_tensor(key: str, shape: list[int]) -> np.ndarray:
    """A distance must not be negative, so neither may be the heads."""
    x = golden_tensor(f"lpips.{key}", shape)
    return np.abs(x) if key.startswith("lin") else x


@pytest.mark.parametrize(("name", "case", "dtype"), cases("lpips", "float32"))
def test_lpips_equals_official(name, case, dtype):
    """Every image is a video of one frame."""
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    network = build(LPIPS, LPIPSConfig(), golden, lpips_names(), lpips_tensor)
    inputs = (key.split("/") for key in golden["inputs"])
    images = [channels_last(golden_input(*key, golden["shape"]))[:, None] for key in inputs]
    assert_equal(jax.jit(lpips)(network, *images)[:, 0], np.asarray(golden[case]), dtype)


def i3d_tensor(key: str, shape: list[int]) -> np.ndarray:
    """Variances are positive."""
    if key.endswith("running_var"):
        x = random_state(key).standard_normal(shape).astype(np.float32)
        return 1 + np.float32(0.1) * np.abs(x)
    return golden_tensor(key, shape)


@pytest.mark.parametrize(("name", "case", "dtype"), cases("i3d", "float32"))
def test_i3d_equals_official(name, case, dtype):
    golden, arrays = read(name)
    network = build(I3D, I3DConfig(), golden, i3d_names(), i3d_tensor)
    video = channels_last(golden_input(name, case, golden["cases"][case]))
    both = jax.jit(lambda network, video: (network.features(video), network.logits(video)))
    features, logits = both(network, video)
    assert_equal(features, channels_last(arrays[f"{case}.features"]), dtype)
    assert_equal(logits, channels_last(arrays[f"{case}.logits"]), dtype)

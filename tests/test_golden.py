"""Our models equal the official ones: every golden file of the folder, by kind.

The folder is `tests/golden`, or the one named by the environment variable CVVAE_GOLDEN. Files hold
outputs of the official PyTorch code in float32 on weights and inputs that the formulas below make.
"""

import dataclasses
import functools
import itertools
import json
import os
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax import paths
from cvvae_jax.codec.codec import Codec
from cvvae_jax.config import (
    DiscriminatorConfig,
    ImageVAEConfig,
    LossConfig,
    LPIPSConfig,
    SVDVAEConfig,
    VideoVAEConfig,
)
from cvvae_jax.convert.convert import from_official, official_shapes
from cvvae_jax.convert.families import abstract_model
from cvvae_jax.convert.names import (
    diffusers_rows,
    discriminator_rows,
    ldm_rows,
    lpips_rows,
    official_name,
    svd_rows,
)
from cvvae_jax.losses.lpips import lpips
from cvvae_jax.models import video_vae
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.svd_vae import SVDVAE
from cvvae_jax.models.vgg import LPIPS
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.training.gradients import Batch, Networks, gradients
from cvvae_jax.training.objective import Draws, generate
from cvvae_jax.training.state import Averages, Frozen, LogScales

FOLDER = Path(os.environ.get("CVVAE_GOLDEN", Path(__file__).parent / "golden"))
KINDS = (
    "image_vae",
    "video_vae",
    "video_vae_tiled",
    "svd_vae",
    "discriminator",
    "lpips",
    "train_step",
)
# Training steps take long to compile; the others are slow tests.
QUICK_STEPS = ("train_image", "train_random")

# float32 sums of up to 13824 products (27 taps of 512 channels) carry about sqrt(13824) * 6e-8 =
# 7e-6 relative error each; some sixty layers in a row stay below 1e-4 of the largest output.
FLOAT32_TOLERANCE = 1e-4
# bfloat16 keeps 8 bits: 2e-3 a rounding, adding up like a random walk over some hundred roundings.
BFLOAT16_TOLERANCE = 5e-2


def cases(kind: str, *dtypes: str) -> list:
    """(file name, case, type) of every golden file of a kind; full-width models in half precision
    are slow."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        golden = json.loads(path.read_text())
        if golden["kind"] == kind:
            full_width = sum(map(np.prod, golden["state_dict"].values())) > 1e8
            long = kind == "train_step" and path.stem not in QUICK_STEPS
            for case, dtype in itertools.product(golden.get("cases", ["values"]), dtypes):
                slow = long or (full_width and dtype == "bfloat16")
                marks = [pytest.mark.slow] if slow else []
                found.append(pytest.param(path.stem, case, dtype, marks=marks))
    return found


def read(name: str) -> tuple[dict, dict]:
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    return golden, dict(np.load(FOLDER / f"{name}.npz"))


def random_state(text: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(text.encode()))


def golden_tensor(key: str, shape: list[int]) -> np.ndarray:
    x = random_state(key).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return x / np.sqrt(np.prod(shape[1:])).astype(np.float32)
    return 1 + np.float32(0.1) * x if key.endswith("weight") else np.float32(0.1) * x


def golden_input(name: str, case: str, shape: list[int]) -> np.ndarray:
    x = random_state(f"input:{name}/{case}").standard_normal(shape)
    return np.tanh(x).astype(np.float32)


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


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


def build(model_class, config, golden: dict, rows: list, tensor=golden_tensor):
    abstract = jax.eval_shape(
        lambda key: model_class(config, rngs=nnx.Rngs(key)), jax.random.key(0)
    )
    tensors = {key: tensor(key, shape) for key, shape in golden["state_dict"].items()}
    return from_official(abstract, tensors, rows)


def video_model(golden: dict, dtype: str) -> VideoVAE:
    config = dataclasses.replace(video_config(golden), dtype=dtype)
    rows = (
        diffusers_rows()
        if golden["family"] == "sd3"
        else ldm_rows(len(config.block_channels), image=False)
    )
    return build(VideoVAE, config, golden, rows)


def image_model(golden: dict, dtype: str) -> ImageVAE:
    config = dataclasses.replace(image_config(golden), dtype=dtype)
    return build(ImageVAE, config, golden, diffusers_rows())


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
    codec = Codec(vae, chunk_frames=chunk, tile=tile, overlap=official["tile_overlap_ratio"])
    posterior = codec.posterior(video)
    decoded = codec.decode(posterior.mode(), frames=frames, height=height, width=width)
    return jnp.concatenate([posterior.mean, posterior.logvar], axis=-1), decoded


def assert_equal(ours, theirs: np.ndarray, dtype: str) -> None:
    assert ours.shape == theirs.shape
    error = np.asarray(ours, np.float32) - theirs
    if dtype == "float32":
        assert np.abs(error).max() <= FLOAT32_TOLERANCE * np.abs(theirs).max()
    else:
        assert np.sqrt(np.mean(error**2) / np.mean(theirs**2)) <= BFLOAT16_TOLERANCE


def test_folder_holds_golden_files():
    """Of every kind in our folder, of any kind in another one: tests without a case only skip."""
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
    moments, decoded = outputs(build(SVDVAE, svd_config(golden), golden, svd_rows()), video)
    assert_equal(moments[0], channels_last(arrays[f"{case}.moments"]), dtype)
    assert_equal(decoded[0], channels_last(arrays[f"{case}.decoded"]), dtype)


@pytest.mark.parametrize(("name", "case", "dtype"), cases("discriminator", "float32"))
def test_discriminator_equals_official(name, case, dtype):
    golden, arrays = read(name)
    base, layers = golden["config"]["ndf"], golden["config"]["n_layers"]
    config = DiscriminatorConfig(base_channels=base, layers=layers)
    network = build(Discriminator, config, golden, discriminator_rows(layers))
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
    network = build(LPIPS, LPIPSConfig(), golden, lpips_rows(), lpips_tensor)
    inputs = (key.split("/") for key in golden["inputs"])
    images = [channels_last(golden_input(*key, golden["shape"]))[:, None] for key in inputs]
    assert_equal(jax.jit(lpips)(network, *images)[:, 0], np.asarray(golden[case]), dtype)


def part_of(golden: dict, prefix: str) -> dict:
    """The golden file's tensors of one network, named without the prefix."""
    names = {
        key.removeprefix(prefix): key for key in golden["state_dict"] if key.startswith(prefix)
    }
    shapes = {name: golden["state_dict"][key] for name, key in names.items()}
    return {"state_dict": shapes, "keys": names}


def build_part(model_class, config, golden: dict, prefix: str, rows: list, *, positive=()):
    part = part_of(golden, prefix)

    def tensor(name, shape):
        x = golden_tensor(part["keys"][name], shape)
        return np.abs(x) if name.startswith(positive) else x

    return build(model_class, config, part, rows, tensor)


def image_decoder_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Of the frozen image VAE; golden files have its decoder alone, the encoder isn't used."""
    unused = name.startswith("encoder")
    return np.zeros(shape, np.float32) if unused else golden_tensor(f"constraint_{name}", shape)


def golden_networks(golden: dict) -> tuple[Networks, Frozen]:
    """The four networks of a training step."""
    widths = {
        "block_channels": (32, 32, 64, 64),
        "blocks_per_level": 1,
        "latent_channels": 4,
    }
    config = dataclasses.replace(video_vae.PRESETS["sd3"], **widths)
    tensors = {
        k: v for k, v in golden["state_dict"].items() if k.startswith(("encoder", "decoder"))
    }
    model = build(VideoVAE, config, {"state_dict": tensors}, diffusers_rows())
    image_config = ImageVAEConfig(quant_conv=False, **widths)
    wanted = official_shapes(abstract_model(ImageVAE, image_config), diffusers_rows())
    image = {"state_dict": dict(wanted.values())}
    image_vae = build(ImageVAE, image_config, image, diffusers_rows(), image_decoder_tensor)
    lpips_network = build_part(
        LPIPS, LPIPSConfig(), golden, "loss.perceptual_loss.", lpips_rows(), positive=("lin",)
    )
    discriminator = build_part(
        Discriminator,
        DiscriminatorConfig(base_channels=32, layers=3),
        golden,
        "loss.discriminator.",
        discriminator_rows(3),
    )
    return Networks(model, LogScales.create(0.1), discriminator), Frozen(image_vae, lpips_network)


def golden_batch(golden: dict) -> Batch:
    name = golden["name"]
    video = channels_last(golden_input(name, "x", golden["shape"]))
    b, t, h, w, _ = video.shape
    noise = random_state(f"noise:{name}").standard_normal((b, 4, (t + 3) // 4, h // 8, w // 8))
    noise = channels_last(noise.astype(np.float32))
    offsets = np.asarray(golden["targets_offsets"] or [1] * ((t - 1) // 4), np.int32) - 1
    return Batch(jnp.asarray(video), Draws(*map(jnp.asarray, (noise, noise, offsets))))


def assert_norms_equal(gradients, rows: list, expected: dict[str, float], prefix: str = "") -> None:
    """Of every tensor: to 1e-3, or 1e-6 of the global norm where the true gradient is zero."""
    floor = 1e-6 * np.sqrt(sum(norm**2 for norm in expected.values()))
    found = {
        prefix + official_name(rows, path)[0]: float(jnp.linalg.norm(leaf.ravel()))
        for path, leaf in paths.flatten(gradients).items()
    }
    assert set(found) == set(expected)
    for name, norm in expected.items():
        assert abs(found[name] - norm) <= 1e-3 * norm + floor, (name, found[name], norm)


@pytest.mark.parametrize(("name", "case", "dtype"), cases("train_step", "float32"))
@pytest.mark.parametrize("updates", ["joint", pytest.param("alternate", marks=pytest.mark.slow)])
def test_training_step_equals_official(name, case, dtype, updates):
    """Every logged value to 1e-4; the official code differentiates three times, we once."""
    golden, _ = read(name)
    networks, frozen = golden_networks(golden)
    loss = LossConfig(
        recon=golden["rec_loss"], compat_recon=golden["rec_loss"], mapping=golden["target_type"]
    )

    def run(update):
        step = functools.partial(gradients, update=update, loss=loss, remat="none")
        return jax.jit(step)(networks, Averages.create(), golden_batch(golden), frozen)

    if updates == "joint":
        both, metrics = run("joint")
        vae, discriminator, gan_metrics = both, both, metrics
    else:
        (vae, metrics), (discriminator, gan_metrics) = run("generator"), run("discriminator")
    values = np.prod(golden["shape"][-2:]) * 3
    expected = golden["generator"]
    ours = {
        "train/kl_loss": metrics["loss/kl"],
        "train/loss/total": metrics["loss/total"],
        "train/loss/nll": metrics["loss/nll"],
        "train/loss/rec": metrics["loss/recon"] / values + 0.5 * metrics["loss/lpips"],
        "train/loss/rec2d": metrics["loss/compat"] / values,
        "train/loss/g": metrics["loss/gan_g"],
        "train/scalars/logvar": networks.log_scales.recon,
        "train/scalars/logvar_2d": networks.log_scales.compat,
        "train/scalars/d_weight": metrics["gan/adaptive_weight"],
        "train/loss/disc": gan_metrics["loss/gan_d"],
        "train/logits/real": gan_metrics["gan/logits_real"],
        "train/logits/fake": gan_metrics["gan/logits_fake"],
    }
    for key, value in (expected | golden["discriminator"]).items():
        np.testing.assert_allclose(ours[key], value, rtol=1e-4, err_msg=key)
    norms = dict(golden["generator_grad_norms"])
    scales = {"loss.logvar": vae.log_scales.recon, "loss.logvar_2d": vae.log_scales.compat}
    for key, value in scales.items():
        np.testing.assert_allclose(abs(value), norms.pop(key), rtol=1e-3, err_msg=key)
    assert_norms_equal(vae.model, diffusers_rows(), norms)
    rows, prefix = discriminator_rows(3), "loss.discriminator."
    assert_norms_equal(
        discriminator.discriminator, rows, golden["discriminator_grad_norms"], prefix
    )


@pytest.mark.parametrize(("name", "case", "dtype"), cases("train_step", "float32"))
def test_outputs_of_training_equal_official(name, case, dtype):
    golden, arrays = read(name)
    networks, frozen = golden_networks(golden)
    batch = golden_batch(golden)
    outputs, _ = jax.jit(functools.partial(generate, remat="none"))(
        networks.model, batch.video, batch.draws.noise, None
    )
    assert_equal(outputs.latents, channels_last(arrays["z"]), dtype)
    assert_equal(outputs.recons[0], channels_last(arrays["reconstruction"]), dtype)
    view = jax.jit(lambda vae, z: vae.decode(z))(frozen.image_vae, outputs.latents)
    assert_equal(view, channels_last(arrays["reconstruction_2d"]), dtype)

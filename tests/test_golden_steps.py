"""Our training step equals the official one: every logged value and every gradient norm."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import (
    assert_equal,
    build,
    cases,
    channels_last,
    golden_input,
    golden_tensor,
    random_state,
    read,
)

from cvvae_jax import parameter_paths
from cvvae_jax.config import DiscriminatorConfig, ImageVAEConfig, LossConfig, LPIPSConfig
from cvvae_jax.convert.convert import abstract_model, official_shapes
from cvvae_jax.convert.names import diffusers_names, discriminator_names, lpips_names, official_name
from cvvae_jax.models import video_vae
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.training.objective import Batch, Draws, generate
from cvvae_jax.training.state import Frozen, LogitMeans, LogScales, TrainedNetworks
from cvvae_jax.training.step import gradients


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
    """A tensor of the frozen image VAE; golden files have its decoder alone, the encoder isn't
    used."""
    unused = name.startswith("encoder")
    return np.zeros(shape, np.float32) if unused else golden_tensor(f"constraint_{name}", shape)


def golden_networks(golden: dict) -> tuple[TrainedNetworks, Frozen]:
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
    model = build(VideoVAE, config, {"state_dict": tensors}, diffusers_names())
    image_config = ImageVAEConfig(quant_conv=False, **widths)
    wanted = official_shapes(abstract_model(ImageVAE, image_config), diffusers_names())
    image = {"state_dict": dict(wanted.values())}
    image_vae = build(ImageVAE, image_config, image, diffusers_names(), image_decoder_tensor)
    lpips_network = build_part(
        LPIPS, LPIPSConfig(), golden, "loss.perceptual_loss.", lpips_names(), positive=("lin",)
    )
    discriminator = build_part(
        Discriminator,
        DiscriminatorConfig(base_channels=32, layers=3),
        golden,
        "loss.discriminator.",
        discriminator_names(3),
    )
    return TrainedNetworks(model, LogScales.create(0.1), discriminator), Frozen(
        image_vae, lpips_network
    )


def golden_batch(golden: dict) -> Batch:
    name = golden["name"]
    video = channels_last(golden_input(name, "x", golden["shape"]))
    b, t, h, w, _ = video.shape
    noise = random_state(f"noise:{name}").standard_normal((b, 4, (t + 3) // 4, h // 8, w // 8))
    noise = channels_last(noise.astype(np.float32))
    offsets = np.asarray(golden["targets_offsets"] or [1] * ((t - 1) // 4), np.int32) - 1
    return Batch(jnp.asarray(video), Draws(*map(jnp.asarray, (noise, noise, offsets))))


def assert_norms_equal(gradients, rows: list, expected: dict[str, float], prefix: str = "") -> None:
    """Compares the gradient's norm of every tensor: to 1e-3, or to 1e-6 of the global norm where
    the true gradient is zero."""
    floor = 1e-6 * np.sqrt(sum(norm**2 for norm in expected.values()))
    found = {
        prefix + official_name(rows, path)[0]: float(jnp.linalg.norm(leaf.ravel()))
        for path, leaf in parameter_paths.flatten(gradients).items()
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
        return jax.jit(step)(networks, LogitMeans.create(), golden_batch(golden), frozen)

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
    assert_norms_equal(vae.model, diffusers_names(), norms)
    rows, prefix = discriminator_names(3), "loss.discriminator."
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

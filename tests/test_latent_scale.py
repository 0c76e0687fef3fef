"""Latents with a mean and a deviation of every channel: read, kept, used, handed on."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_models import random_model

import cvvae_jax
from cvvae_jax.checkpoint import save_model
from cvvae_jax.cli.main import main
from cvvae_jax.config import ImageVAEConfig, SVDVAEConfig, VideoVAEConfig
from cvvae_jax.config.latent_scale import latent_scale
from cvvae_jax.convert.convert import abstract_model, to_official
from cvvae_jax.convert.export import write_official
from cvvae_jax.convert.names import diffusers_names
from cvvae_jax.errors import UserError
from cvvae_jax.latents.file import SUFFIXES, LatentsMetadata, LatentsWriter, open_latents
from cvvae_jax.loading import open_model
from cvvae_jax.models import video_vae
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.svd_vae import SVDVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.video_io.images import read_image, write_image

MEAN = [-1.6574, 1.886, -1.383, 2.5155]
STD = [8.4927, 5.9022, 6.5498, 5.2299]
GIVEN = {"scaling_factor": 0.5, "latents_mean": MEAN, "latents_std": STD}
SMALL = {"block_channels": (32, 64), "blocks_per_level": 1}
NORMED = {"scaling_factor": 0.5, "latents_mean": tuple(MEAN), "latents_std": tuple(STD)}


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    vae = random_model(ImageVAE, ImageVAEConfig(**SMALL))
    return dict(to_official(vae, diffusers_names()))


def write(path, tensors, config):
    path.mkdir()
    save_file(tensors, path / "diffusion_pytorch_model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    return path


def is_normed(config) -> bool:
    return latent_scale(config) == {**NORMED, "shift_factor": 0.0}


@pytest.mark.parametrize(
    ("array", "dtype"),
    [(np.asarray, "float32"), (jnp.asarray, "float32"), (jnp.asarray, "bfloat16")],
)
def test_a_mean_and_a_deviation_scale_every_channel(tmp_path, tensors, array, dtype):
    """diffusers' pipelines compute the same, before img2img and before the decoder."""
    vae = cvvae_jax.load(write(tmp_path / "x", tensors, GIVEN))
    latents = array(np.random.default_rng(0).normal(0, 5, (1, 2, 3, 3, 4)), jnp.dtype(dtype))
    wide = np.asarray(latents, np.float64)
    scaled, back = vae.scale(latents), vae.unscale(latents)
    assert scaled.dtype == back.dtype == dtype
    # Three roundings of values of up to 10.
    atol = 30 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(scaled, np.float64), (wide - MEAN) * 0.5 / STD, atol=atol)
    unscaled = wide * STD / 0.5 + MEAN
    np.testing.assert_allclose(np.asarray(back, np.float64), unscaled, rtol=1e-2, atol=20 * atol)


def test_they_survive_every_conversion(tmp_path, tensors):
    source = write(tmp_path / "theirs", tensors, GIVEN)
    assert main(["convert", str(source), str(tmp_path / "ours")]) == 0
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "back")]) == 0
    for folder in ("theirs", "ours", "back"):
        assert is_normed(cvvae_jax.load(tmp_path / folder).config)
    written = json.loads((tmp_path / "back/config.json").read_text())
    assert written.items() >= {**GIVEN, "shift_factor": None}.items()
    for folder in ("ours", "back"):
        assert f"(latents - {MEAN}) * 0.5 / {STD}" in (tmp_path / folder / "README.md").read_text()


def zeros(model_class, config):
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_model(model_class, config))


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (VideoVAE, video_vae.PRESETS["sd21"]),
        (VideoVAE, video_vae.PRESETS["sd3"]),
        (SVDVAE, SVDVAEConfig(**SMALL)),
    ],
)
def test_classes_without_a_field_for_them_keep_them_in_the_file(tmp_path, model_class, config):
    widths = (32,) * len(config.block_channels)
    config = dataclasses.replace(
        config,
        **NORMED,
        **{"latent_channels": 4, "shift_factor": 0.0},
        **{"block_channels": widths, "blocks_per_level": 1},
    )
    write_official(zeros(model_class, config), tmp_path / "x")
    assert open_model(tmp_path / "x").config == config


@pytest.mark.parametrize("name", ["sd21", "sd3"])
def test_official_models_have_no_word_of_them(tmp_path, name):
    config = dataclasses.replace(
        video_vae.PRESETS[name], block_channels=(32,) * 4, blocks_per_level=1
    )
    write_official(zeros(VideoVAE, config), tmp_path / "x")
    written = json.loads((tmp_path / "x/config.json").read_text())
    assert not written.keys() & {"shift_factor", "latents_mean", "latents_std"}


@pytest.mark.parametrize("given", [{}, {"latents_mean": None}, {"latents_std": None}])
def test_null_means_that_there_are_none(tmp_path, tensors, given):
    config = cvvae_jax.load(write(tmp_path / "x", tensors, given)).config
    assert config == ImageVAEConfig(**SMALL)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"latents_std": None}, "latents_mean is given alone"),
        ({"latents_mean": None}, "latents_std is given alone"),
        ({"latents_mean": MEAN[:3]}, "a number for each of the 4 channels"),
        ({"latents_std": [*STD, 1.0]}, "a number for each of the 4 channels"),
        ({"latents_std": [1, 2, 0, 4]}, "latents_std must be finite numbers above 0"),
        ({"latents_std": [1, 2, -3, 4]}, "latents_std must be finite numbers above 0"),
        ({"latents_mean": [1, 2, float("nan"), 4]}, "latents_mean must be a list of numbers"),
        ({"latents_mean": [1, 2, "3", 4]}, "latents_mean must be a list of numbers"),
        ({"latents_mean": [1, 2, True, 4]}, "latents_mean must be a list of numbers"),
        ({"latents_mean": [1, 2, 10**400, 4]}, "latents_mean must be a list of numbers"),
        ({"latents_mean": [[1, 2, 3, 4]]}, "latents_mean must be a list of numbers"),
        ({"latents_mean": 0.5}, "latents_mean must be a list of numbers"),
        ({"latents_std": "1 2 3 4"}, "latents_std must be a list of numbers"),
        ({"shift_factor": 0.1}, "shift_factor is 0.1 beside latents_mean"),
        ({"scaling_factor": 10**400}, "scaling_factor must be a number"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(tmp_path, tensors, change, said):
    with pytest.raises(UserError, match=rf"x/config\.json: .*{said}"):
        cvvae_jax.load(write(tmp_path / "x", tensors, GIVEN | change))


@pytest.mark.parametrize("kind", [ImageVAEConfig, VideoVAEConfig, SVDVAEConfig])
def test_every_configuration_checks_them(kind):
    with pytest.raises(UserError, match="go together"):
        kind(latents_mean=(0.0,) * 4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_latents_say_them(tmp_path, suffix):
    facts = LatentsMetadata(frames=1, height=8, width=8, scaled=True, shift_factor=0.0, **NORMED)
    with LatentsWriter(tmp_path / f"z{suffix}") as writer:
        writer.write(np.zeros((1, 1, 1, 4), np.float32))
        writer.finish(facts)
    assert open_latents(tmp_path / f"z{suffix}").metadata == facts


def test_commands_scale_with_them(tmp_path):
    """`encode --scaled`, and `decode` of it beside that of the same latents unscaled."""
    small = {"block_channels": (4, 4), "norm_groups": 2, "mid_attention": False}
    config = ImageVAEConfig(**small, **NORMED, blocks_per_level=1)
    save_model(tmp_path / "vae", random_model(ImageVAE, config))
    frame = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    write_image(tmp_path / "in.png", frame)
    names = {name: str(tmp_path / name) for name in ("vae", "in.png", "z.npz", "x.npz")}
    weights = ("--weights", names["vae"])
    assert main(["encode", names["in.png"], names["z.npz"], "--scaled", *weights]) == 0
    scaled = open_latents(names["z.npz"])
    assert is_normed(scaled.metadata)
    with LatentsWriter(names["x.npz"]) as writer:
        writer.write(next(scaled.parts()) * np.float32(STD) / 0.5 + np.float32(MEAN))
        writer.finish(dataclasses.replace(scaled.metadata, scaled=False))
    shown = []
    for name in ("z", "x"):
        target = tmp_path / f"{name}.png"
        assert main(["decode", names[f"{name}.npz"], str(target), *weights]) == 0
        shown.append(read_image(target).astype(int))
    assert np.abs(shown[0] - shown[1]).max() <= 1 and np.ptp(shown[0]) > 50

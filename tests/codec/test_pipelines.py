"""Latents of diffusion pipelines: axes, scale, and what is refused."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import random_model

from cvvae_jax.codec.codec import Codec
from cvvae_jax.codec.pipelines import from_pipeline, require_scale, to_pipeline
from cvvae_jax.codec.values import Latents
from cvvae_jax.config import ImageVAEConfig, VideoVAEConfig
from cvvae_jax.errors import UserError
from cvvae_jax.models.image_vae import PRESETS, ImageVAE
from cvvae_jax.models.video_vae import VideoVAE

SMALL = {"block_channels": (4, 4, 4), "blocks_per_level": 1, "norm_groups": 2}
SIZES = {"b": 2, "n": 3, "z": 4, "y": 5, "x": 6}
LAYOUTS = ("b z y x", "n z y x", "b z n y x", "b n z y x")


VIDEO = random_model(VideoVAE, VideoVAEConfig(temporal_strides=(2, 2), **SMALL))


def image_vae(**scale) -> ImageVAE:
    return random_model(ImageVAE, ImageVAEConfig(**SMALL, **scale))


def numbered(layout: str) -> np.ndarray:
    """Latents whose value at (b, n, z, y, x) has these as its digits."""
    axes = layout.split()
    places = np.indices([SIZES[axis] for axis in axes])
    weights = [10 ** (4 - "bnzyx".index(axis)) for axis in axes]
    return np.float32(sum(w * place for w, place in zip(weights, places, strict=True)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_there_and_back(layout):
    given = numbered(layout)
    latents = from_pipeline(given, layout, vae=VIDEO)
    b, n, y, x, z = np.indices(latents.values.shape)
    np.testing.assert_array_equal(
        latents.values, np.float32(10000 * b + 1000 * n + 100 * z + 10 * y + x)
    )
    n = SIZES["n"] if "n" in layout else 1
    assert (latents.frames, latents.height, latents.width) == (4 * n - 3, 5 * 4, 6 * 4)
    assert latents.scaled and latents.pixels == "uint8"
    back = to_pipeline(latents, layout, vae=VIDEO)
    np.testing.assert_array_equal(back, given)
    assert back.flags.c_contiguous  # as torch.from_numpy wants them


def test_same_under_jit():
    given = jnp.asarray(numbered("b z n y x"))
    through = lambda x: from_pipeline(x, "b z n y x", vae=VIDEO)  # noqa: E731
    traced = jax.jit(through)(given)
    np.testing.assert_array_equal(traced.values, through(given).values)
    assert isinstance(through(given).values, jax.Array) and traced.frames == 9


@pytest.mark.parametrize(
    ("latents", "layout", "message"),
    [
        ((2, 16, 5, 6), "b z y x", r"\(2, 16, 5, 6\) are not 'b z y x' with the 4 channels"),
        ((2, 3, 4, 5, 6), "b z n y x", "of this VAE; they fit 'b n z y x'"),
        ((2, 4, 3, 5, 6), "b z y x", "of this VAE; they fit 'b z n y x'"),
        ((2, 4, 5, 0), "b z y x", "which is empty"),
    ],
)
def test_what_does_not_fit_is_one_sentence(latents, layout, message):
    with pytest.raises(UserError, match=message) as raised:
        from_pipeline(np.zeros(latents, np.float32), layout, vae=VIDEO)
    assert str(raised.value).count(". ") == 0


def test_unknown_layout_is_refused():
    """The annotations, which tests check, would refuse it as well."""
    with pytest.raises(UserError, match=r"layout must be b z y x or .*, not 'b t h w c'"):
        inspect.unwrap(from_pipeline)(np.zeros((2, 4, 5, 6)), "b t h w c", vae=VIDEO)


def test_several_videos_or_frames_need_a_place():
    many = Latents(np.zeros((2, 3, 5, 6, 4), np.float32), 9, 20, 24, scaled=True)
    with pytest.raises(UserError, match="'b z y x' has one latent frame, and these latents have 3"):
        to_pipeline(many, "b z y x", vae=VIDEO)
    with pytest.raises(UserError, match="'n z y x' has one video, and these latents have 2"):
        to_pipeline(many, "n z y x", vae=VIDEO)


@pytest.mark.parametrize(
    "scale",
    [
        {"scaling_factor": 0.25, "shift_factor": 3.0},
        {"scaling_factor": 0.5, "latents_mean": (1.0, 2.0, 3.0, 4.0), "latents_std": (2.0,) * 4},
    ],
)
def test_scale_goes_both_ways(scale):
    """Powers of two, so that float32 is exact."""
    vae = image_vae(**scale)
    raw = Latents(np.full((1, 1, 2, 2, 4), 9.0, np.float32), 1, 8, 8)
    scaled = to_pipeline(raw, "b z y x", vae=vae)
    wanted = [1.5] * 4 if "shift_factor" in scale else [2.0, 1.75, 1.5, 1.25]
    np.testing.assert_array_equal(scaled[0, :, 1, 1], wanted)
    back = Codec(vae).unscale(from_pipeline(scaled, "b z y x", vae=vae))
    np.testing.assert_array_equal(back.values, raw.values)


def test_video_of_a_pipeline_is_decoded_whole():
    scaled = np.random.default_rng(0).standard_normal((1, 4, 3, 2, 2), np.float32)
    video = Codec(VIDEO).decode(from_pipeline(scaled, "b z n y x", vae=VIDEO, pixels="float32"))
    assert video.shape == (1, 9, 8, 8, 3)
    direct = VIDEO.decode(np.moveaxis(scaled, 1, -1) / np.float32(0.18215))
    # The same program but for the fusion of its layers: rounding errors of float32.
    np.testing.assert_allclose(video, direct, atol=1e-5 * float(np.abs(direct).max()))


SD = {"scaling_factor": 0.18215}
PLAYGROUND = {"scaling_factor": 0.5, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}


@pytest.mark.parametrize("null", [{}, {"shift_factor": None, "latents_mean": None}])
def test_scale_of_the_same_space_is_accepted(null):
    require_scale(SD | null, vae=image_vae())
    tuples = {name: tuple(v) if type(v) is list else v for name, v in PLAYGROUND.items()}
    require_scale(PLAYGROUND, vae=image_vae(**tuples))


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"scaling_factor": 0.13025}, r"\(latents - 0.0\) \* 0.13025"),
        ({"scaling_factor": PRESETS["sd3"].scaling_factor, "shift_factor": 0.0609}, "0.0609"),
        (PLAYGROUND, r"\* 0.5 / \[1.0"),
    ],
)
def test_scale_of_another_space_is_refused(theirs, words):
    with pytest.raises(UserError, match=rf"{words}.* this VAE as \(latents - 0.0\) \* 0.18215"):
        require_scale(theirs, vae=image_vae())

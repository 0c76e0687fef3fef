"""Scores of unseen clips, against the same numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax import sharding
from cvvae_jax.config import ImageVAEConfig, MeshConfig, VideoVAEConfig
from cvvae_jax.data.colors import color_matrix
from cvvae_jax.metrics.image import psnr, ssim
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.training.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("with_reference_convolutions")

WIDTHS = {
    "block_channels": (8, 8),
    "blocks_per_level": 1,
    "norm_groups": 2,
    "mid_attention": False,
}
MODEL = VideoVAEConfig(temporal_strides=(2,), decoder_attention="spatial", **WIDTHS)
IMAGE = ImageVAEConfig(quant_conv=False, **WIDTHS)
COLORS = ("hue", "chroma", "red", "green", "blue")
NAMES = {"recon", "compat", "image_latents", "image_vae", "bicubic", "bicubic_time"}


def clips(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 5, size, size, 3), np.uint8)


@pytest.fixture(scope="module")
def models():
    return jax.jit(lambda: (VideoVAE(MODEL, rngs=nnx.Rngs(0)), ImageVAE(IMAGE, rngs=nnx.Rngs(1))))()


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(MeshConfig(data=2), batches=(2,))


@jax.jit
def by_hand(model: VideoVAE, image: ImageVAE, video: jax.Array) -> dict[str, jax.Array]:
    latents = model.encode(video).mode()
    return {
        "views": image.decode(latents),
        "recon": model.decode(latents),
        "compat": image.decode(latents)[:, jnp.array([0, 1, 1, 2, 2])],
        "image_latents": model.decode(image.encode(video[:, jnp.array([0, 2, 4])]).mode()),
        "image_vae": image.decode(image.encode(video).mode()),
    }


def test_scores_and_views_are_those_of_the_models(models, mesh):
    scores, views = evaluate(*models, clips(16), mesh)
    metrics = ("psnr", "ssim", *COLORS)
    assert set(scores) == {f"{metric}_{name}" for metric in metrics for name in NAMES}
    video = jnp.asarray(clips(16), jnp.float32) / 127.5 - 1
    expected = by_hand(*models, video)
    shown = {"input": video, "recon": expected["recon"], "compat": expected.pop("views")}
    for name, view in shown.items():
        np.testing.assert_allclose(views[name], view, atol=1e-4, err_msg=name)
    for name, rival in expected.items():
        for metric in (psnr, ssim):
            value, key = float(metric(rival, video).mean()), f"{metric.__name__}_{name}"
            np.testing.assert_allclose(scores[key], value, rtol=1e-4, atol=1e-4, err_msg=key)
        shift = 127.5 * (jnp.clip(rival, -1, 1) - video).mean(axis=(0, 1, 2, 3))
        found = [scores[f"{channel}_{name}"] for channel in ("red", "green", "blue")]
        # Sums of 4,000 values of either sign, each rounded to 24 bits.
        np.testing.assert_allclose(found, shift, rtol=1e-4, atol=1e-2, err_msg=name)


class Repainted(ImageVAE):
    """A model that turns hues by 10 degrees and takes a quarter of the chroma away."""

    def encode(self, video, **options):
        return Posterior(video)

    def decode(self, latents, **options):
        return latents @ jnp.asarray(color_matrix(np.radians(10.0), 0.75), jnp.float32).T


class Posterior:
    """A posterior that is certain of the latents."""

    def __init__(self, latents):
        self.mode = lambda: latents


def repainted(video: np.ndarray, mesh) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    model = jax.jit(lambda: Repainted(IMAGE, rngs=nnx.Rngs(0)))()
    return evaluate(model, None, video, mesh)


def test_turned_hues_and_lost_chroma_are_measured_on_the_chart(mesh):
    scores, views = repainted(clips(16)[:2], mesh)
    # The chart's own colors are known to 24 bits.
    assert scores["hue_recon"] == pytest.approx(10, abs=1e-3)
    assert scores["chroma_recon"] == pytest.approx(0.75, abs=1e-4)
    assert len(views["recon"]) == 2  # the chart is not shown


def test_scores_of_the_clips_do_not_count_the_chart(mesh):
    """The chart is the one clip whose colors this model changes."""
    scores, _ = repainted(np.repeat(clips(16)[..., :1], 3, axis=-1), mesh)
    assert scores["psnr_recon"] > 90  # 100 but for rounding
    shift = [scores[f"{channel}_recon"] for channel in ("red", "green", "blue")]
    np.testing.assert_allclose(shift, 0, atol=1e-3)


def test_model_alone_has_no_compatibility_and_small_frames_no_ssim(models, mesh):
    scores, views = evaluate(models[1], None, clips(8)[:, :1], mesh)
    metrics = ("psnr", *COLORS)
    assert set(scores) == {f"{m}_{name}" for m in metrics for name in ("recon", "bicubic")}
    assert {name: view.shape for name, view in views.items()} == dict.fromkeys(
        ("input", "recon"), (3, 1, 8, 8, 3)
    )


@pytest.mark.parametrize("devices", [2, 8])
def test_views_are_of_four_clips_at_most_and_scores_of_all(models, devices):
    """Seven clips: two at once and one that is left over, or all at once."""
    mesh = sharding.make_mesh(MeshConfig(data=devices), batches=(8,))
    images = np.repeat(clips(8)[:, :1], 3, axis=0)[:7]
    scores, views = evaluate(models[1], None, images, mesh)
    assert {name: len(view) for name, view in views.items()} == {"input": 4, "recon": 4}
    alone = [evaluate(models[1], None, images[i : i + 1], mesh)[0] for i in (0, 3, 6)]
    weights = np.array([3, 3, 1]) / 7
    assert {name.partition("_")[0] for name in scores} == {"psnr", *COLORS}
    for name, score in scores.items():
        if name.startswith(("hue", "chroma")):  # of the chart, whatever the clips
            continue
        expected = weights @ [each[name] for each in alone]
        np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-3)

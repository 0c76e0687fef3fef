"""Compatibility on tiny models, of any frame count and size."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import random_model

from cvvae_jax.codec.codec import Codec
from cvvae_jax.config import ImageVAEConfig, VideoVAEConfig
from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.compatibility import measure as measure_module
from cvvae_jax.evaluation.compatibility import measure_compatibility, summarize_compatibility
from cvvae_jax.evaluation.compatibility import summary as summary_module
from cvvae_jax.frame_groups import group_means, key_frames
from cvvae_jax.losses import compat_targets
from cvvae_jax.metrics.latents import mmd
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE

# A latent for 2 x 2 pixels and 2 frames.
SMALL = {"block_channels": (4, 4), "blocks_per_level": 1, "norm_groups": 2, "mid_attention": False}
# A first frame, two groups of two, and one frame that is left.
FRAMES, HEIGHT, WIDTH = 6, 7, 10
KEYS = [0, 2, 4, 5]
SHOWN = [0, 1, 1, 2, 2, 3]


def metrics(recon, target):
    assert recon.shape == target.shape
    assert recon.dtype == target.dtype == np.float32
    return {"mse": np.square(recon - target).mean(axis=(2, 3, 4))}


@pytest.fixture(scope="module")
def codecs():
    devices = jax.devices()[:1]
    video_vae = random_model(VideoVAE, VideoVAEConfig(**SMALL, temporal_strides=(2,)))
    image_vae = random_model(ImageVAE, ImageVAEConfig(**SMALL))
    return Codec(video_vae, devices=devices), Codec(image_vae, devices=devices)


@pytest.fixture(scope="module")
def video():
    return np.random.default_rng(0).uniform(-1, 1, (2, FRAMES, HEIGHT, WIDTH, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def measured(codecs, video):
    return measure_compatibility(*codecs, video, image_metrics=metrics, seeds=[0, 1])


def clips_of(measured):
    return [{key: value[i] for key, value in measured.items()} for i in range(2)]


def error(recon, target):
    return np.square(recon - target).mean(axis=(2, 3, 4))


def test_cells_of_the_video_matrix_are_the_codecs_own_reconstructions(codecs, video, measured):
    codec, image_codec = codecs
    cell = measured["matrix/video/Ev-Dv/mse"]
    recon = codec.decode(codec.encode(video))
    np.testing.assert_allclose(cell, error(recon, video), rtol=1e-5)
    latents = codec.encode(video).values
    images = image_codec.decode(latents)[:, SHOWN, :HEIGHT, :WIDTH]
    np.testing.assert_allclose(measured["matrix/video/Ev-Di/mse"], error(images, video), rtol=1e-5)
    own = image_codec.encode(video[:, KEYS]).values
    recon = codec.decode(own)[:, :FRAMES, :HEIGHT, :WIDTH]
    np.testing.assert_allclose(measured["matrix/video/Ei-Dv/mse"], error(recon, video), rtol=1e-5)
    images = image_codec.decode(own)[:, SHOWN, :HEIGHT, :WIDTH]
    np.testing.assert_allclose(measured["matrix/video/Ei-Di/mse"], error(images, video), rtol=1e-5)


def test_cells_of_the_image_matrix_take_every_key_frame_alone(codecs, video, measured):
    codec, image_codec = codecs
    encoders, decoders = {"Ei": image_codec, "Ev": codec}, {"Di": image_codec, "Dv": codec}
    for e, encoder in encoders.items():
        for d, decoder in decoders.items():
            for i, frame in enumerate(KEYS):
                image = video[:, frame : frame + 1]
                recon = decoder.decode(encoder.encode(image))
                np.testing.assert_allclose(
                    measured[f"matrix/image/{e}-{d}/mse"][:, i],
                    error(recon, image)[:, 0],
                    rtol=1e-5,
                )


def test_mappings_are_those_of_the_loss_on_whole_groups(codecs, video, measured):
    """`random` is the mean over all draws of offsets: a group's two frames, whatever the other
    group's."""
    codec, image_codec = codecs
    images = image_codec.decode(codec.encode(video).values)[:, :, :HEIGHT, :WIDTH]

    def wanted(mapping, offset=0):
        target = compat_targets(
            jnp.asarray(video[:, :5]),
            mapping=mapping,
            temporal_compression=2,
            offsets=jnp.full(2, offset, jnp.int32),
        )
        return error(images[:, : target.shape[1]], np.asarray(target))

    for mapping, count in (("first", 1), ("slice", 3), ("mean", 3)):
        found = measured[f"mapping/{mapping}/mse"][:, :count]
        np.testing.assert_allclose(found, wanted(mapping), rtol=1e-5)
    drawn = np.mean([wanted("random", offset) for offset in range(2)], axis=0)
    np.testing.assert_allclose(measured["mapping/random/mse"][:, :3], drawn, rtol=1e-5)


def test_a_shorter_last_group_is_held_against_its_own_frames(codecs, video, measured):
    codec, image_codec = codecs
    image = image_codec.decode(codec.encode(video).values)[:, 3, :HEIGHT, :WIDTH]
    last = np.square(image - video[:, 5]).mean(axis=(1, 2, 3))
    for mapping in ("slice", "mean", "random"):
        np.testing.assert_allclose(measured[f"mapping/{mapping}/mse"][:, 3], last, rtol=1e-5)


def test_kl_of_a_frame_is_from_its_groups_posterior_to_its_own(codecs, video, measured):
    codec, image_codec = codecs
    p, q = codec.posterior(video), image_codec.posterior(video)
    for frame, latent in enumerate(SHOWN):
        one, other = (
            jax.tree.map(lambda x, i=i: x[:, i : i + 1], d) for d, i in ((p, latent), (q, frame))
        )
        expected = one.kl(other) / one.mean[0].size
        np.testing.assert_allclose(measured["latents/kl"][:, frame], expected, rtol=1e-4)


def test_a_clip_measures_the_same_in_any_batch(codecs, video, measured):
    alone = measure_compatibility(*codecs, video[1:], image_metrics=metrics, seeds=[1])
    for key, value in alone.items():
        np.testing.assert_allclose(value, measured[key][1:], rtol=1e-4, atol=1e-6, err_msg=key)


def test_loss_stays_within_its_bounds(measured):
    found = {key.removeprefix("lipschitz/"): x for key, x in measured.items() if "lipschitz" in key}
    loss, error, distance = found["loss"], found["image_error"], found["distance"]
    # The quadrature's and float32's error: the inequalities are strict by far more.
    assert (loss <= error + found["path"] * distance * 1.001).all()
    assert (found["chord"] <= found["path"] * 1.001).all()
    assert (found["path"] <= found["largest"]).all()
    assert (found["least"] <= found["typical"]).all() and (found["least"] > 0).all()
    assert (found["typical"] < found["largest"]).all()


def test_an_image_vae_is_compatible_with_itself(codecs, video):
    _, image_codec = codecs
    found = measure_compatibility(
        image_codec, image_codec, video, image_metrics=metrics, seeds=[0, 1]
    )
    summary = summarize_compatibility(clips_of(found))
    latents = summary["latents"]
    assert abs(latents["kl"]) < 1e-6 and latents["distance"] == 0
    assert (
        latents["frechet"] == latents["frechet_within"] and latents["mmd"] == latents["mmd_within"]
    )
    assert latents["principal_angle"] == latents["principal_angle_within"] > 0
    assert latents["frechet_same_clips"] < 1e-9
    assert summary["lipschitz"]["distance"] == 0 and summary["lipschitz"]["chord"] is None
    assert (
        len({summary["matrix"]["video"][cell]["mse"] for cell in summary["matrix"]["video"]}) == 1
    )


def test_summary_is_json_without_nan(measured):
    summary = summarize_compatibility(clips_of(measured))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert set(summary["matrix"]) == {"video", "image"}
    assert set(summary["matrix"]["image"]) == {"Ei-Di", "Ei-Dv", "Ev-Di", "Ev-Dv"}
    assert len(summary["latents"]["kl_by_position"]) == 3
    assert all(len(shift) == 3 for shift in summary["color_shift"].values())
    assert len(summary["latents"]["channels"]) == 4
    np.testing.assert_allclose(
        summary["mappings"]["slice"]["mse"], measured["mapping/slice/mse"].mean(), rtol=1e-6
    )


@pytest.mark.slow
def test_the_smallest_clips_have_null_for_what_they_lack(codecs):
    """Two frames of one row of latents, whose last one is partly beyond the frame; in 8 bits."""
    codec, _ = codecs
    clips = np.random.default_rng(0).integers(0, 256, (2, 2, 2, 5, 3), np.uint8)
    found = measure_compatibility(*codecs, clips, image_metrics=metrics, seeds=[0, 1])
    floats = (x.astype(np.float32) / 127.5 - 1 for x in (codec.reconstruct(clips), clips))
    np.testing.assert_allclose(found["matrix/video/Ev-Dv/mse"], error(*floats), rtol=1e-5)
    latents = summarize_compatibility(clips_of(found))["latents"]
    assert latents["frechet"] is None and latents["probe_r2"]["image_from_video"] is None
    assert latents["principal_angle"] is None
    assert latents["kl"] > 0
    assert [number is None for number in latents["kl_by_position"]] == [False, False, True]


def test_distances_are_null_without_two_clips_that_have_patches(measured):
    none = [clip | {"patches/image": clip["patches/image"][:0]} for clip in clips_of(measured)]
    for clips in (clips_of(measured)[:1], none):
        latents = summarize_compatibility(clips)["latents"]
        assert latents["frechet_within"] is None and latents["mmd"] is None
        assert latents["probe_r2"] == {"image_from_video": None, "video_from_image": None}
        json.dumps(latents, allow_nan=False)


def test_positions_that_no_clip_has_are_null(measured):
    times = ("latents/kl", "latents/square_distance")
    clips = [clip | {key: clip[key][:1] for key in times} for clip in clips_of(measured)]
    latents = summarize_compatibility(clips)["latents"]
    first, *others = latents["kl_by_position"]
    assert first == latents["kl"] and others == [None, None]


def test_models_that_do_not_belong_together_are_named(codecs, video):
    codec, _ = codecs
    other = Codec(random_model(ImageVAE, ImageVAEConfig(**SMALL, latent_channels=8)))
    with pytest.raises(UserError, match="8 channels for 2 x 2 pixels, the model's 4"):
        measure_compatibility(codec, other, video, image_metrics=metrics, seeds=[0, 1])
    with pytest.raises(UserError, match="not with a VideoVAE"):
        measure_compatibility(codec, codec, video, image_metrics=metrics, seeds=[0, 1])


def test_group_means_and_key_frames_of_any_frame_count():
    values = np.arange(7, dtype=np.float32)[None]
    np.testing.assert_array_equal(group_means(values, temporal_compression=4), [[0, 2.5, 5.5]])
    np.testing.assert_array_equal(group_means(values, temporal_compression=1), values)
    np.testing.assert_array_equal(key_frames(7, temporal_compression=4), [0, 4, 6])
    np.testing.assert_array_equal(key_frames(5, temporal_compression=4), [0, 4])
    np.testing.assert_array_equal(key_frames(1, temporal_compression=4), [0])


@pytest.mark.parametrize(("count", "used"), [(5, range(5)), (12, [0, 3, 6, 8, 11])])
def test_mmd_of_many_patches_takes_some_of_all_of_them(monkeypatch, count, used):
    """From the first to the last, evenly."""
    monkeypatch.setattr(summary_module, "MMD_SAMPLES", 5)
    a, b = np.random.default_rng(0).normal(size=(2, count, 3))
    assert summary_module._mmd(a, b) == mmd(a[list(used)], b[list(used)])


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [(2, (0, 2), (1, 3)), (3, (0, 3), (1, 4)), (16, (0, 3), (0, 5))]
)
def test_large_frames_are_stretched_in_their_middle(
    codecs, video, monkeypatch, size, rows, columns
):
    """A frame has 3 x 5 latents all of whose pixels are there; `stretch` sees a square of them, and
    the pixels below it."""
    seen = []
    monkeypatch.setattr(measure_module, "STRETCH_SIZE", size)
    monkeypatch.setattr(measure_module, "stretch", lambda _, *arrays: seen.append(arrays) or {})
    own, latents = np.random.default_rng(0).normal(size=(2, 2, 4, 4, 5, 4)).astype(np.float32)
    pair = measure_module._Pair(*codecs, video, metrics)
    assert measure_module._stretch_figures(pair, latents, own) == {}
    square = slice(*rows), slice(*columns)
    pixels = slice(2 * rows[0], 2 * rows[1]), slice(2 * columns[0], 2 * columns[1])
    for clip, arrays in enumerate(seen):
        expected = own[clip, 2][square], latents[clip, 2][square], video[clip, KEYS[2]][pixels]
        for found, wanted in zip(arrays, expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert len(seen) == 2

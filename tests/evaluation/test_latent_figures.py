"""Figures of latents in an evaluation: from the models' own latents to results.json."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import save_clips, save_models

import cvvae_jax
from cvvae_jax.cli.main import main
from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.latents import midpoints
from cvvae_jax.evaluation.metrics import METRICS
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.evaluation.summary import summarize
from cvvae_jax.metrics import diffusability
from cvvae_jax.metrics.frechet import FeatureStatistics, frechet_distance
from cvvae_jax.metrics.latents import patches
from cvvae_jax.models.inputs import to_float
from cvvae_jax.video_io.video import read_frames

LATENTS = ("latent_spectrum", "latent_motion", "velocity_variance", "interpolated")


def colors(network, video):
    """Features of frames that need no network: their mean colors."""
    return video.mean(axis=(2, 3))


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """The results, the video VAE's path and the clips, of which one is too short."""
    folder = tmp_path_factory.mktemp("latents")
    models, clips = save_models(folder), save_clips(folder / "clips", count=4, frames=6)
    protocol = folder / "latents.toml"
    names = ["psnr", "fid", *LATENTS]
    protocol.write_text(f"frames = 5\nmetrics = {json.dumps(names)}\nflat_fields = false\n")
    with pytest.MonkeyPatch.context() as patch:
        row = dataclasses.replace(METRICS["fid"], function=colors, network=None)
        patch.setitem(METRICS, "fid", row)
        command = ["evaluate", f"video={models['video']}", "--data", str(clips)]
        command += ["--protocol", str(protocol), "--out", str(folder / "out")]
        assert main([*command, "--baselines", "nearest"]) == 0
    return json.loads((folder / "out" / "results.json").read_text()), models["video"], clips


@pytest.fixture(scope="module")
def latents(evaluation):
    """Codec, videos and latents of the measured clips, computed here."""
    _, path, clips = evaluation
    codec = cvvae_jax.Codec(cvvae_jax.load(path))
    names = ("0.mp4", "2.mp4", "3.mp4")
    videos = np.stack([np.stack(list(read_frames(Path(clips) / name)))[:5] for name in names])
    return codec, videos, np.asarray(codec.posterior(videos).mean)


def test_figures_are_those_of_the_models_latents(evaluation, latents):
    """In float32, whose order of sums differs between batches: 1e-4."""
    found, _, values = evaluation[0]["scores"]["video"], *latents[1:]
    for key, spectrum in (
        ("latent_spectrum", diffusability.spatial_spectrum),
        ("latent_motion", diffusability.temporal_spectrum),
    ):
        wanted = [diffusability.fine_share(spectrum(clip)) for clip in values]
        np.testing.assert_allclose(found[key]["clips"], wanted, rtol=1e-4)
    drawn = [
        patches(clip, size=2, count=128, seed=number)
        for clip, number in zip(values, (0, 2, 3), strict=True)
    ]
    wanted = diffusability.gaussian_velocity_variance(np.concatenate([*drawn[::2], drawn[1]]))
    np.testing.assert_allclose(found["gaussian_velocity"]["value"], wanted, rtol=1e-3)
    assert 0 < found["velocity_variance"]["value"] < 1.2 * wanted
    assert found["velocity_variance"]["clips"] is None


def test_interpolated_distance_is_that_of_frames_between_neighbors(evaluation, latents):
    codec, videos, values = latents
    flat = values.reshape(3, -1)
    distances = np.linalg.norm(flat[:, None] - flat, axis=-1) + 1e9 * np.eye(3)
    between = (values + values[distances.argmin(axis=1)]) / 2
    decoded = codec.decode(cvvae_jax.Latents(between, 5, *videos.shape[2:4], "uint8"))
    statistics = [FeatureStatistics(), FeatureStatistics()]
    for into, frames in zip(statistics, (decoded, videos), strict=True):
        into.add(np.asarray(to_float(frames).mean(axis=(2, 3))).reshape(-1, 3))
    found = evaluation[0]["scores"]["video"]
    np.testing.assert_allclose(found["ifid"]["value"], frechet_distance(*statistics), rtol=1e-3)
    assert found["ifid"]["value"] != found["fid"]["value"] and "ifvd" not in found


def test_baselines_have_no_latents_and_the_table_says_what_is_missing(evaluation):
    found = evaluation[0]
    assert not {"latent_spectrum", "velocity_variance", "ifid"} & set(found["scores"]["nearest"])
    assert not found["not_measured"]
    groups = {metric["key"]: metric["group"] for metric in found["metrics"]}
    assert groups["velocity_variance"] == "latents" and groups["ifid"] == "distribution"


def test_neighbors_are_sought_among_clips_of_one_size():
    rows = np.array([0.0, 10.0, 1.0, 3.0, 50.0], np.float32)
    latents = [np.full((2, 1, 1, 1), row, np.float32) for row in rows]
    sizes = [(5, 8, 8)] * 4 + [(5, 8, 16)]
    found = list(midpoints(sizes, latents, "uint8"))
    assert [float(each.values[0, 0, 0, 0, 0]) for each in found] == [0.5, 6.5, 0.5, 2.0]
    assert all((each.frames, each.height, each.width) == (5, 8, 8) for each in found)


def test_clips_that_allow_no_figure_give_none():
    """One clip has no other half; one latent frame has no course."""
    protocol = Protocol(metrics=("psnr", *LATENTS[:3]))
    measured = {
        "latent_motion": np.zeros(8),
        "latent_patches": np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32),
    }
    found = summarize(lambda name: iter([measured]), ["a"], protocol, group=4)
    assert not found["scores"]["a"]


def test_interpolation_needs_features_to_compare():
    with pytest.raises(UserError, match="name fid or fvd beside it"):
        Protocol(metrics=("psnr", "interpolated"))

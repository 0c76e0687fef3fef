"""Measured colors, against turns of the hue and mixtures with gray that are known."""

import colorsys

import numpy as np
import pytest

from cvvae_jax.data.colors import color_matrix
from cvvae_jax.evaluation.measure import Measure
from cvvae_jax.evaluation.metrics import METRICS
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.metrics import color

SIZES = [(64, 64), (16, 16), (2, 5), (31, 47)]


def recolored_chart(angle: float, saturation: float, size=(64, 64)) -> np.ndarray:
    """The chart with its hues turned by degrees, in 8-bit levels that aren't rounded."""
    return color.chart(1, *size) @ color_matrix(np.radians(angle), saturation).T


def patches(clip: np.ndarray) -> np.ndarray:
    """The mean colors (ten, 3) of a clip of one frame."""
    weights = color.patch_weights(*clip.shape[1:3])
    return np.einsum("phw,hwc->pc", weights, clip[0])


def errors_of(clip: np.ndarray) -> color.PatchErrors:
    """The errors of a chart of 64 x 64 pixels."""
    return color.patch_errors(patches(clip), patches(recolored_chart(0.0, 1.0)))


@pytest.mark.parametrize("rgb", [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1)])
def test_hue_and_chroma_of_pure_colors_are_those_of_the_color_circle(rgb):
    hue, chroma = color.hue_and_chroma(np.array(rgb) * 200)
    assert hue % 360 == pytest.approx(360 * colorsys.rgb_to_hsv(*rgb)[0])
    assert chroma == pytest.approx(200)


def test_gray_changes_no_hue_and_halves_the_chroma():
    given = np.array([250.0, 30.0, 90.0])
    hue, chroma = color.hue_and_chroma(given)
    mixed_hue, mixed_chroma = color.hue_and_chroma((given + 77) / 2)
    np.testing.assert_allclose([mixed_hue, mixed_chroma], [hue, chroma / 2])


def test_differences_of_hues_are_the_shorter_way_round():
    turns = color.hue_difference(np.array([170.0, -170, 0]), np.array([-170.0, 170, 90]))
    np.testing.assert_allclose(turns, [20, -20, 90])


@pytest.mark.parametrize("size", SIZES)
def test_chart_has_ten_saturated_patches_36_degrees_apart(size):
    clip = color.chart(3, *size)
    assert clip.shape == (3, *size, 3) and clip.dtype == np.uint8
    assert (clip == clip[0]).all() and len(np.unique(clip[0].reshape(-1, 3), axis=0)) == 10
    colors = patches(clip[:1])
    hues = [360 * colorsys.rgb_to_hsv(*patch)[0] for patch in colors]
    # 8-bit colors of this chroma turn by 0.2 degrees when a channel is rounded.
    np.testing.assert_allclose(hues, np.arange(0, 360, 36), atol=0.3)
    saturations = [colorsys.rgb_to_hsv(*patch)[1] for patch in colors]
    np.testing.assert_allclose(saturations, 0.8, atol=0.005)


@pytest.mark.parametrize("size", SIZES)
def test_weights_are_means_over_the_inside_of_each_patch(size):
    weights = color.patch_weights(*size)
    assert weights.shape == (10, *size)
    np.testing.assert_allclose(weights.sum(axis=(1, 2)), 1)
    assert ((weights > 0).sum(axis=0) <= 1).all()


def test_bleeding_at_the_borders_of_patches_does_not_count():
    clip = color.chart(1, 64, 64).astype(float)
    clip[:, 28:36] = 128
    clip[:, :, 23:28] = 128
    errors = color.patch_errors(patches(clip), patches(color.chart(1, 64, 64)))
    assert errors.worst_hue == 0 and errors.worst_chroma == pytest.approx(1)


@pytest.mark.parametrize("angle", [10.0, -10.0, 3.0, 120.0])
def test_hues_turned_by_an_angle_are_measured_as_it(angle):
    errors = errors_of(recolored_chart(angle, 1.0))
    np.testing.assert_allclose(errors.hue, angle, atol=1e-9)
    np.testing.assert_allclose(errors.chroma, 1)
    assert errors.worst_hue == pytest.approx(abs(angle))


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.25])
def test_chart_mixed_with_gray_is_measured_as_its_ratio(ratio):
    errors = errors_of(recolored_chart(0.0, ratio))
    np.testing.assert_allclose(errors.chroma, ratio)
    np.testing.assert_allclose(errors.hue, 0, atol=1e-9)
    assert errors.worst_chroma == pytest.approx(ratio)


def test_worst_patch_leads_either_way():
    errors = color.PatchErrors(np.array([1.0, -7.0, 5.0]), np.array([1.3, 0.75, 1.1]))
    assert errors.worst_hue == 7 and errors.worst_chroma == 0.75  # 1 / 0.75 is more than 1.3
    gone = color.PatchErrors(np.array([0.0]), np.array([0.0]))
    assert 0 <= gone.worst_chroma < 1e-5


def test_errors_of_frames_are_turn_ratio_and_shift():
    original = recolored_chart(0.0, 0.5)
    turned = recolored_chart(10.0, 0.4) + np.array([3, -2, 0.5])
    shifted = color.color_errors(turned, original)
    shift = (turned - original).mean(axis=(1, 2))
    np.testing.assert_allclose(shifted[:, :3], shift)
    errors = color.color_errors(recolored_chart(10.0, 0.4), original)
    np.testing.assert_allclose(errors[:, 3:], [[10, 0.8]])


def test_gray_frames_have_no_hue():
    gray = np.full((2, 8, 8, 3), 100, np.uint8)
    gray[1, :4] = (200, 0, 0)
    errors = color.color_errors(gray, gray)
    np.testing.assert_allclose(errors[0], [0, 0, 0, np.nan, np.nan])
    np.testing.assert_allclose(errors[1], [0, 0, 0, 0, 1])


def test_metric_of_evaluations_shows_shift_hue_and_chroma():
    video = np.repeat(color.chart(1, 32, 32), 2, axis=0)
    video[1] = 90  # gray: no hue, and no weight in the means
    changed = np.round(recolored_chart(10.0, 0.75, (32, 32)))
    recon = np.concatenate([changed, video[1:] + 4.0]).astype(np.uint8)
    measure = Measure(Protocol(metrics=("color",)), networks={})
    arrays = measure(recon, video, tile_borders=([], []))
    found = {figure.key: figure.value(arrays) for figure in METRICS["color"].figures}
    # A level of rounding turns a patch's hue by less than half a degree.
    assert found["hue_error"] == pytest.approx(10, abs=0.5)
    assert found["chroma_ratio"] == pytest.approx(0.75, abs=0.01)
    shift = np.abs((recon - video.astype(float)).mean(axis=(0, 1, 2))).max()
    assert found["color_shift"] == pytest.approx(shift)

"""Other colors for clips: turned hues, known by hand, and rectangles."""

import colorsys

import numpy as np
import pytest

from cvvae_jax.config import Bucket, DataConfig, StageConfig
from cvvae_jax.data.colors import color_matrix, recolored
from cvvae_jax.data.pipeline import batches
from cvvae_jax.metrics.color import hue_and_chroma


def brown() -> np.ndarray:
    """A clip of one color, with 50 levels between its channels."""
    return np.broadcast_to(np.uint8([150, 110, 100]), (2, 12, 10, 3))


def test_a_third_of_a_turn_makes_red_green_and_green_blue():
    third = color_matrix(2 * np.pi / 3, 1.0)
    np.testing.assert_allclose(third, [[0, 0, 1], [1, 0, 0], [0, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(color_matrix(0.0, 1.0), np.eye(3), atol=1e-12)


def test_turns_add_up_gray_stays_and_saturation_scales():
    matrix = color_matrix(0.3, 2.0)
    np.testing.assert_allclose(matrix @ color_matrix(0.4, 0.5), color_matrix(0.7, 1.0), atol=1e-12)
    np.testing.assert_allclose(matrix @ np.full(3, 0.4), np.full(3, 0.4))
    colors = np.array([[200.0, 40, 90], [10, 60, 50]])
    hue, chroma = hue_and_chroma(colors)
    turned_hue, turned_chroma = hue_and_chroma(colors @ matrix.T)
    np.testing.assert_allclose((turned_hue - hue) % 360, np.degrees(0.3))
    np.testing.assert_allclose(turned_chroma, 2 * chroma)


def test_half_of_the_clips_get_other_colors_and_a_third_rectangles():
    clip, changed, painted = brown(), 0, 0
    for seed in range(600):
        result = recolored(clip, np.random.default_rng(seed))
        assert result.shape == clip.shape and result.dtype == np.uint8
        same = (result == clip).all(axis=-1)
        # Rectangles leave most of a clip as it is; other colors leave nothing but chance.
        changed += same.mean() < 0.05
        # Other colors have 50 levels between channels, or twice that, and 2 for rounding.
        painted += (np.ptp(result.astype(int), axis=-1) > 102).any()
    # Of 600 draws, 4 standard deviations. Dark rectangles have fewer levels between channels.
    assert 300 - 50 < changed < 300 + 50
    assert 80 < painted < 200 + 46
    np.testing.assert_array_equal(clip, brown())


def test_rectangles_are_of_one_saturated_color_and_stand_still():
    clip = np.full((3, 32, 48, 3), 128, np.uint8)
    seen = 0
    for seed in range(60):
        result = recolored(clip, np.random.default_rng(seed))
        np.testing.assert_array_equal(result, np.repeat(result[:1], 3, axis=0))
        colors = {tuple(color) for color in result[0].reshape(-1, 3).tolist()} - {(128,) * 3}
        assert len(colors) <= 3
        for color in colors:
            where = (result[0] == color).all(axis=-1)
            assert 0 < where.mean() <= 0.25 + 0.02
            assert colorsys.rgb_to_hsv(*color)[1] >= 0.49  # half, but for rounding
        seen += bool(colors)
    assert 8 < seen < 32  # a third of 60, 3 standard deviations


@pytest.mark.parametrize("recolor", [False, True])
def test_batches_have_other_colors_where_a_run_asks_for_them(recolor):
    stage = StageConfig(1, (Bucket(1, 16, 8),))
    plain, own = (
        next(batches(stage, DataConfig(recolor=asked), seed=0, start_step=0))
        for asked in (False, recolor)
    )
    np.testing.assert_array_equal(plain["seed"], own["seed"])
    assert (plain["video"] != own["video"]).any() == recolor

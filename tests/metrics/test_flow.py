"""Warping error: on a picture that is moved, where flow is nearly exact."""

import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cvvae_jax.errors import UserError
from cvvae_jax.metrics.time import warping_error


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    """A soft picture that moves by two rows and three columns a frame."""
    pytest.importorskip("cv2")
    noise = np.random.default_rng(0).normal(size=(96, 96, 3))
    soft = gaussian_filter(noise, 2, axes=(0, 1))
    picture = 128 + 100 * soft / np.abs(soft).max()
    return np.stack([picture[2 * i : 2 * i + 64, 3 * i : 3 * i + 64] for i in range(5)]).astype(
        np.uint8
    )


def test_what_moves_as_its_input_has_hardly_an_error(video):
    """Flow is right to some hundredths of a pixel, the picture changes by some levels a pixel."""
    errors = warping_error(video, video)
    assert errors.shape == (4,)
    assert errors.max() < 1
    brighter = warping_error(video + np.uint8(5), video)
    np.testing.assert_allclose(brighter, errors, rtol=1e-5)  # float32


def test_flicker_is_read_in_levels(video):
    steps = np.array([0, 6, 0, 6, 0], np.uint8)[:, None, None, None]
    np.testing.assert_allclose(warping_error(video + steps, video), 6, atol=0.2)


def test_defects_are_ranked(video):
    noise = np.random.default_rng(1).normal(0, 6 / np.sqrt(2), video.shape)
    noisy = (video + noise).round().astype(np.uint8)
    stuck = np.repeat(video[:1], 5, axis=0)
    own, noisy, stuck = (warping_error(x, video).mean() for x in (video, noisy, stuck))
    assert own < 1 < noisy < 7 < stuck


def test_what_is_hidden_next_is_left_out(video):
    """A bright square moves over the still picture: what it hides has nowhere to go."""
    frames = np.repeat(video[:1], 2, axis=0)
    for i in range(2):
        frames[i, 20:44, 12 + 8 * i : 36 + 8 * i] = 255 - video[0, :24, :24] // 4
    hidden = np.square(frames[1].astype(float) - frames[0])[20:44, 36:44].sum()
    # Far less than what those pixels alone would make of it.
    assert warping_error(frames, frames)[0] < 0.7 * np.sqrt(hidden / frames[0].size)


def test_still_video_reads_zero(video):
    still = np.repeat(video[:1], 3, axis=0)
    np.testing.assert_array_equal(warping_error(still, still), 0)


def test_single_frame_has_no_motion(video):
    assert warping_error(video[:1], video[:1]).shape == (0,)


def test_clips_do_not_depend_on_those_before(video):
    first = warping_error(video[:2], video[:2])
    warping_error(video[::-1].copy(), video[::-1].copy())
    np.testing.assert_array_equal(warping_error(video[:2], video[:2]), first)


def test_frames_too_small_for_flow_are_refused():
    frames = np.zeros((2, 15, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="16 pixels, not 15 x 64"):
        warping_error(frames, frames)


def test_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(UserError, match="pip install opencv-python-headless"):
        warping_error(frames, frames)

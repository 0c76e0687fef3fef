"""Which frames of a clip a preview shows."""

import numpy as np
import pytest

from cvvae_jax.data import preview


@pytest.mark.parametrize(
    ("count", "shown"),
    [(5, range(5)), (9, range(9)), (10, [0, 1, 2, 3, 4, 6, 7, 8, 9]), (17, range(0, 17, 2))],
)
def test_long_clips_show_nine_frames_evenly_and_short_ones_all(count, shown):
    clips = np.broadcast_to(np.arange(count)[None, :, None, None, None], (2, count, 4, 4, 3))
    for row in preview._rows(clips):
        np.testing.assert_array_equal(row[:, 0, 0, 0], list(shown))


def test_images_lie_in_one_row():
    assert [len(row) for row in preview._rows(np.zeros((12, 1, 4, 4, 3), np.uint8))] == [12]

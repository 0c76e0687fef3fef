"""Which clips a report shows, and how much of them."""

from unittest.mock import Mock

import numpy as np
import pytest

from cvvae_jax.evaluation import results
from cvvae_jax.evaluation.clips import Clip, ClipInfo
from cvvae_jax.evaluation.store import Store


@pytest.mark.parametrize(("frames", "shown"), [(3, 3), (4, 4), (7, 4)])
def test_examples_of_long_clips_are_their_beginning(tmp_path, monkeypatch, frames, shown):
    written = []
    monkeypatch.setattr(results, "_EXAMPLE_FRAMES", 4)
    monkeypatch.setattr(results, "write_example", lambda path, *videos, fps: written.append(videos))
    video = np.arange(frames * 8 * 8 * 3, dtype=np.uint8).reshape(frames, 8, 8, 3)
    clip = Clip(0, ClipInfo("a.mp4", "", 0, frames, 25.0, 8, 8), video)
    store = Mock(spec=Store, folder=tmp_path)
    results._write_example(clip, "a", lambda name, clips: (255 - video)[None], store, "media/a")
    ((input, recon),) = written
    np.testing.assert_array_equal(input, video[:shown])
    np.testing.assert_array_equal(recon, 255 - video[:shown])


@pytest.mark.parametrize(
    ("clips", "count", "worst", "best"),
    [
        (9, 2, [0, 1], [8, 7]),
        (4, 2, [0, 1], [3, 2]),
        (3, 3, [0, 1], [2]),
        (2, 5, [0], [1]),
        (1, 2, [0], []),
    ],
)
def test_no_clip_is_among_the_worst_and_the_best(clips, count, worst, best):
    values = [20.0 + number for number in range(clips)]
    found = results._worst_and_best(values, count)
    assert found == [("worst", i) for i in worst] + [("best", i) for i in best]

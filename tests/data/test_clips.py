"""Clips: lawful random choices, of strides or rates, and shapes that fit the bucket."""

import numpy as np
import pytest

from cvvae_jax.config import Bucket, DataConfig
from cvvae_jax.data import records
from cvvae_jax.video_io.images import write_image
from cvvae_jax.video_io.media_types import Frames
from cvvae_jax.video_io.video_writer import VideoWriter


def numbered_video(path, frames, *, height=24, width=36, first=0, fps=25):
    """A video whose frame k has gray level 5 (first + k), and 1/3 more per pixel to the right."""
    with VideoWriter(path, fps=fps, height=height, width=width) as writer:
        for k in range(frames):
            row = 5 * (first + k) + np.arange(width) // 3
            writer.write(np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8))
    return path


def numbered_frames(frames, *, size=24, fps=25.0):
    """The frames of a numbered video, decoded already: frame k is k everywhere."""
    levels = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return Frames("numbers", np.broadcast_to(levels, (frames, size, size, 3)), fps)


def numbers(clip):
    """The frame numbers that a clip of a numbered video shows, from the left of the whole frame."""
    return np.round(clip[:, 2:-2, :3].mean(axis=(1, 2, 3)) / 5).astype(int).tolist()


def cut(media, seed=0, *, frames=5, size=16, **data):
    bucket = Bucket(frames=frames, size=size, batch=1)
    return records.random_clip(media, bucket, DataConfig(**data), np.random.default_rng(seed))


def starts_and_strides(media, *, trials=80, **kwargs):
    shown = (cut(media, seed, size=24, **kwargs)[:, 0, 0, 0].astype(int) for seed in range(trials))
    return {(clip[0], *set(np.diff(clip))) for clip in shown}


def test_stride_and_start_are_drawn_from_all_that_fit(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 12, width=24)
    seen = set()
    for seed in range(60):
        shown = numbers(cut(path, seed, size=24, max_stride=8))
        (stride,) = set(np.diff(shown))
        seen.add((shown[0], int(stride)))
    # 5 frames fit into 12 at stride 1 (8 starts) and at stride 2 (4 starts), not at stride 3.
    assert seen == {(start, 1) for start in range(8)} | {(start, 2) for start in range(4)}


def test_strides_below_the_least_are_drawn_only_where_no_other_fits():
    seen = starts_and_strides(numbered_frames(20), min_stride=3, max_stride=4)
    assert {stride for _, stride in seen} == {3, 4}
    assert starts_and_strides(numbered_frames(9), min_stride=3) == {(0, 2)}


def test_rates_are_drawn_from_the_range_whatever_the_video_s_own():
    """From 60 frames a second to 10 to 20 is every third to sixth frame."""
    seen = [
        np.diff(cut(numbered_frames(200, fps=60.0), seed, size=24, fps=(10.0, 20.0))[:, 0, 0, 0])
        for seed in range(60)
    ]
    means = np.array([gaps.mean() for gaps in seen])
    assert means.min() >= 3 and means.max() <= 6 and np.ptp(means) > 2
    assert all(np.ptp(gaps) <= 1 for gaps in seen)


def test_a_rate_above_the_video_s_own_repeats_no_frame():
    assert {stride for _, stride in starts_and_strides(numbered_frames(20), fps=(50.0, 60.0))} == {
        1
    }


def test_even_videos_give_even_clips_wherever_they_lie():
    """A time right between two frames is as near to both: rounding must not choose."""
    for count in range(18, 400, 3):
        for position in (1 / 6, 1 / 4, 1 / 2, 3 / 4):
            chosen = records.numbers_at_rate(np.arange(count) / 29.97, 17, 29.97, position)
            assert set(np.diff(chosen)) == {1}, (count, position)


def test_a_video_too_short_for_a_rate_is_shown_whole():
    clip = cut(numbered_frames(9), size=24, fps=(1.0, 1.0))
    assert clip[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("fps", [None, (5.0, 25.0)])
def test_short_video_holds_its_last_frame(tmp_path, fps):
    path = numbered_video(tmp_path / "a.mp4", 3, width=24)
    assert numbers(cut(path, size=24, fps=fps)) == [0, 1, 2, 2, 2]


def test_rates_follow_the_times_of_uneven_frames():
    """Ten frames a second for a second, then 30: at 5 a second, every second and every sixth."""
    times = np.concatenate([np.arange(10) / 10, 1 + np.arange(31) / 30])
    chosen = records.numbers_at_rate(times, 11, 5.0, 0.0)
    np.testing.assert_array_equal(chosen, [0, 2, 4, 6, 8, 10, 16, 22, 28, 34, 40])


@pytest.mark.parametrize("short_side", [None, 20, 8])
@pytest.mark.parametrize("size", [16, 64, (16, 40), (40, 16)])
def test_clips_have_the_size_of_the_bucket(tmp_path, short_side, size):
    path = numbered_video(tmp_path / "a.mp4", 6)
    clip = cut(path, size=size, short_side=short_side)
    height, width = (size, size) if isinstance(size, int) else size
    assert clip.shape == (5, height, width, 3) and clip.dtype == np.uint8
    fixed = records.center_clip(path, Bucket(5, size, 1), DataConfig(), position=0.5)
    assert fixed.shape == clip.shape


def test_crops_are_drawn_from_all_places(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 1)
    lefts = [cut(path, i, frames=1, short_side=24)[0, :, 0].mean() for i in range(40)]
    # The 16 pixels wide crop begins anywhere in 20 columns of 36: brightness 0 to 20 / 3.
    assert min(lefts) < 1.5 and max(lefts) > 5
    centers = [cut(path, i, frames=1, short_side=24, crop="center") for i in range(9)]
    assert all(np.array_equal(centers[0], other) for other in centers[1:])
    assert 2.5 < centers[0][0, :, 0].mean() < 4.5


def test_images_are_cropped_in_their_middle(tmp_path):
    frame = np.zeros((16, 48, 3), np.uint8)
    frame[:, 16:32] = 200
    path = tmp_path / "a.png"
    write_image(path, frame)
    assert (cut(path, frames=1, short_side=512) == 200).all()


def test_half_of_the_clips_are_mirrored_or_reversed_on_demand():
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8)[None, None, :, None], (9, 16, 16, 3))
    media = Frames("ramp", ramp + 20 * np.arange(9, dtype=np.uint8)[:, None, None, None])
    seen = [cut(media, seed, frames=9, flip=True, reverse=True).astype(int) for seed in range(200)]
    mirrored = sum(clip[0, 0, 0, 0] > clip[0, 0, -1, 0] for clip in seen)
    backward = sum(clip[0, 0, 0, 0] > clip[-1, 0, 0, 0] for clip in seen)
    # Five standard deviations of 200 fair coins are 35.
    assert abs(mirrored - 100) < 36 and abs(backward - 100) < 36
    plain = cut(media, frames=9)
    np.testing.assert_array_equal(plain, media.array)


def test_record_depends_on_its_generator_alone(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 12)
    one, two, other = (cut(path, seed, flip=True) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("position", "shown"), [(0.0, [0, 2, 4, 6]), (0.5, [2, 4, 6, 8]), (1.0, [5, 7, 9, 11])]
)
def test_fixed_clip_lies_where_it_is_put(tmp_path, position, shown):
    path = numbered_video(tmp_path / "a.mp4", 12, width=24)
    for data in (DataConfig(), DataConfig(fps=(12.5, 20.0))):
        clip = records.center_clip(path, Bucket(4, 24, 1), data, position=position)
        assert numbers(clip) == shown

"""Clips: lawful random choices, and the replacement of what cannot be decoded."""

import logging

import numpy as np
import pytest

from cvvae_jax.config import ConfigError
from cvvae_jax.data import clips, video


def numbered_video(path, frames, *, height=24, width=36, first=0):
    """A video whose frame k has gray level 5 (first + k), and 1/3 more per pixel to the right."""
    with video.VideoWriter(path, fps=25, height=height, width=width) as writer:
        for k in range(frames):
            row = 5 * (first + k) + np.arange(width) // 3
            writer.write(np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8))
    return path


def numbers(clip):
    """The frame numbers a clip shows, from the left of the (uncropped) frame."""
    return np.round(clip[:, 2:-2, :3].mean(axis=(1, 2, 3)) / 5).astype(int).tolist()


def random_clip(files, **kwargs):
    given = {"frames": 5, "size": 16, "max_stride": 4, "short_side": None, **kwargs}
    return clips.RandomClip(files, **given)


def test_stride_and_start_are_drawn_from_all_that_fit(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 12, width=24)
    cut = random_clip([path], size=24, max_stride=8)
    seen = set()
    for seed in range(60):
        record = cut.random_map(path, np.random.default_rng(seed))
        shown = numbers(record["video"])
        (stride,) = set(np.diff(shown))
        seen.add((shown[0], int(stride)))
    # 5 frames fit into 12 at stride 1 (8 starts) and at stride 2 (4 starts), not at stride 3.
    assert seen == {(start, 1) for start in range(8)} | {(start, 2) for start in range(4)}


def test_short_video_holds_its_last_frame(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 3, width=24)
    record = random_clip([path], size=24).random_map(path, np.random.default_rng(0))
    assert numbers(record["video"]) == [0, 1, 2, 2, 2]


@pytest.mark.parametrize(("short_side", "size"), [(None, 16), (20, 16), (None, 64), (8, 16)])
def test_clips_have_the_size_of_the_crop(tmp_path, short_side, size):
    path = numbered_video(tmp_path / "a.mp4", 6)
    record = random_clip([path], size=size, short_side=short_side).random_map(
        path, np.random.default_rng(0)
    )
    assert record["video"].shape == (5, size, size, 3)
    assert record["video"].dtype == np.uint8 and record["seed"].dtype == np.uint32


def test_crops_are_drawn_from_all_places(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 1)
    cut = random_clip([path], frames=1, short_side=24)
    lefts = [
        cut.random_map(path, np.random.default_rng(i))["video"][0, :, 0].mean() for i in range(40)
    ]
    # The 16 pixels wide crop begins anywhere in 20 columns of 36: brightness 0 to 20 / 3.
    assert min(lefts) < 1.5 and max(lefts) > 5


def test_images_are_cropped_in_their_middle(tmp_path):
    frame = np.zeros((16, 48, 3), np.uint8)
    frame[:, 16:32] = 200
    path = tmp_path / "a.png"
    video.write_image(path, frame)
    record = random_clip([path], frames=1).random_map(path, np.random.default_rng(0))
    assert (record["video"] == 200).all()


def test_record_depends_on_its_generator_alone(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 12)
    one, two, other = (
        random_clip([path]).random_map(path, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one["video"], two["video"])
    assert one["seed"] == two["seed"] != other["seed"]


def test_broken_file_is_replaced_deterministically(tmp_path, caplog):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    others = [numbered_video(tmp_path / f"{i}.mp4", 5, first=10 * i, width=24) for i in range(3)]
    cut = random_clip([broken, *others], size=24)
    with caplog.at_level(logging.WARNING):
        records = [cut.random_map(broken, np.random.default_rng(i)) for i in (*range(8), *range(8))]
    for one, again in zip(records[:8], records[8:], strict=True):
        np.testing.assert_array_equal(one["video"], again["video"])
        assert one["seed"] == again["seed"]
    assert {numbers(record["video"])[0] for record in records} == {0, 10, 20}
    assert [record.getMessage().count("broken.mp4") for record in caplog.records] == [1]


def test_many_broken_files_are_an_error(tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(ConfigError, match=r"20 files in a row .*broken\.mp4"):
        random_clip([broken]).random_map(broken, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("position", "shown"), [(0.0, [0, 2, 4, 6]), (0.5, [2, 4, 6, 8]), (1.0, [5, 7, 9, 11])]
)
def test_fixed_clip_lies_where_it_is_put(tmp_path, position, shown):
    path = numbered_video(tmp_path / "a.mp4", 12, width=24)
    clip = clips.center_clip(path, frames=4, size=24, stride=2, position=position)
    assert numbers(clip) == shown

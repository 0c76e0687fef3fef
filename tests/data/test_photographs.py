"""Moving photographs: deterministic, smooth, never beyond the photo, and split by photo."""

from pathlib import Path

import numpy as np
import pytest

from cvvae_jax.data import photographs
from cvvae_jax.data.photographs import MovingPhotographs
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.images import write_image


def source(split="train", frames=5, size=32, seed=0, **kwargs):
    return MovingPhotographs(
        split=split, frames=frames, size=size, length=1000, seed=seed, **kwargs
    )


@pytest.mark.parametrize(("frames", "size"), [(1, 16), (3, 7), (2, 300), (40, 24)])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_any_length_and_size(split, frames, size):
    clip = source(split, frames, size)[3]
    assert clip.shape == (frames, size, size, 3) and clip.dtype == np.uint8
    assert len(source()) == 1000


def test_clip_depends_on_seed_and_index_alone():
    warm = source()
    [warm[i] for i in range(4)]
    np.testing.assert_array_equal(warm[7], source()[7])
    assert not np.array_equal(warm[7], warm[8])
    assert not np.array_equal(warm[7], source(seed=1)[7])


def test_splits_share_no_photo(monkeypatch):
    opened = {"train": set(), "eval": set()}
    read = photographs._photo
    for split, names in opened.items():
        monkeypatch.setattr(
            photographs, "_photo", lambda name, names=names: names.add(name) or read(name)
        )
        for i in range(40):
            source(split, frames=1, size=8)[i]
    assert len(opened["train"]) == 11 and len(opened["eval"]) == 2
    assert not opened["train"] & opened["eval"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of two photos, a red one, which is large, and a blue one."""
    (tmp_path / "more").mkdir()
    write_image(tmp_path / "red.png", np.full((700, 1030, 3), (200, 0, 0), np.uint8))
    write_image(tmp_path / "more/blue.png", np.full((60, 90, 3), (0, 0, 200), np.uint8))
    return tmp_path


def test_photos_of_a_folder_are_trained_on_beside_the_others_and_none_is_held_out(folder):
    colors = {"train": set(), "eval": set()}
    for split, found in colors.items():
        photos = source(split, frames=1, size=4, photos=str(folder))
        for i in range(150):
            corner = photos[i][0, 0, 0].tolist()
            found.add(tuple(corner))
        np.testing.assert_array_equal(photos[7], photos[7])
    assert {(200, 0, 0), (0, 0, 200)} <= colors["train"] and len(colors["train"]) > 20
    assert not {(200, 0, 0), (0, 0, 200)} & colors["eval"]


def test_large_photos_of_a_folder_are_reduced(folder):
    assert photographs._photo(str(folder / "red.png")).size == (753, 512)
    assert photographs._photo(str(folder / "more/blue.png")).size == (90, 60)


def test_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no image file"):
        source(photos=str(tmp_path))
    with pytest.raises(UserError, match="no such file or folder"):
        source(photos=str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["chelsea.png", "retina.jpg"])
@pytest.mark.parametrize("size", [64, 500])
def test_camera_stays_inside_the_photo(name, size):
    for seed in range(100):
        rng = np.random.default_rng(seed)
        camera = photographs._draw_camera(rng, name, frames=200, size=size, speed=4.0)
        corner = np.abs(np.cos(camera.angle)) + np.abs(np.sin(camera.angle))
        half = (camera.width / 2 * corner)[:, None]
        assert (camera.center - half > 0).all()
        assert (camera.center + half < camera.photo.size).all()


def test_camera_reads_a_level_that_does_not_alias():
    for seed in range(100):
        rng = np.random.default_rng(seed)
        camera = photographs._draw_camera(rng, "retina.jpg", frames=9, size=32, speed=1.0)
        step = camera.width / 32
        # Half a level of sqrt(2), and the zoom within a clip.
        assert step.max() < 2**0.25 * np.exp(0.12) + 0.01


def test_motion_is_that_of_the_argument():
    def speeds(speed):
        for seed in range(50):
            rng = np.random.default_rng(seed)
            camera = photographs._draw_camera(rng, "retina.jpg", frames=17, size=64, speed=speed)
            pixels = np.diff(camera.center, axis=0) / (camera.width[1:, None] / 64)
            yield np.hypot(*pixels.T).max()

    assert max(speeds(1.5)) < 1.5 * np.exp(2 * 0.12)  # a pixel of the clip changes with the zoom
    assert np.median(list(speeds(1.5))) > 0.3
    still = source(speed=0.0)[0]
    np.testing.assert_array_equal(still[1:], still[:-1])


def test_neighboring_frames_are_closer_than_distant_ones():
    clips = np.stack([source(frames=9)[i] for i in range(20)]).astype(float)
    near = np.abs(clips[:, 1] - clips[:, 0]).mean()
    far = np.abs(clips[:, 8] - clips[:, 0]).mean()
    assert 0.5 < near < far / 2

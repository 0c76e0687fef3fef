"""Transcoding: which frames and pixels are stored of a medium, and what is left out."""

import dataclasses
import io

import av
import numpy as np
import pytest
from PIL import Image
from prepare_media import pictures, write_video

from cvvae_jax.data.prepare.options import PrepareConfig
from cvvae_jax.data.prepare.transcode import BadMedium, sampling, transcode
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.images import read_image
from cvvae_jax.video_io.media_types import Blob, Frames
from cvvae_jax.video_io.video import read_clip

SMALL = PrepareConfig(short_side=32)


def stored(media, folder, kind="video", **changes):
    config = dataclasses.replace(SMALL, **changes)
    folder.mkdir(exist_ok=True)
    return transcode(media, kind, "x", "00", config, folder)


@pytest.mark.parametrize(
    ("times", "max_fps", "fps", "numbers"),
    [
        (np.arange(6) / 24, 30, 24, [0, 1, 2, 3, 4, 5]),
        (np.arange(6) / 60, 30, 30, [0, 2, 4]),
        (np.arange(10) / 50, 30, 30, [0, 1, 3, 5, 6, 8]),
        (np.round(np.arange(9) * 1001 / 60000, 3), 30, 30, [0, 2, 4, 6, 8]),
        (np.round(np.arange(40) / 29.97, 3), 30, 29.97, list(range(40))),
        # One frame is shown three times as long as the others.
        (np.array([0, 1, 2, 5, 6, 7]) / 20, 30, 20, [0, 1, 2, 2, 2, 3, 4, 5]),
        # 60 frames a second, then 20.
        (np.array([0, 1, 2, 3, 4, 7, 10]) / 60, 30, 30, [0, 2, 4, 4, 5, 6]),
        (np.array([0.0]), 30, 25, [0]),
    ],
)
def test_frames_are_chosen_by_their_times(times, max_fps, fps, numbers):
    rate, chosen = sampling(times, float(max_fps))
    assert float(rate) == pytest.approx(fps, rel=1e-3)
    assert chosen.tolist() == numbers


def test_times_that_leap_are_refused():
    with pytest.raises(UserError, match="their times leap"):
        sampling(np.array([0, 1, 2, 3, 100000]) / 24, 30.0)


def test_uneven_times_become_even(tmp_path):
    times = [0, 50, 100, 250, 300, 350]
    write_video(tmp_path / "a.mkv", pictures(6), times=times)
    [(entry, path)] = stored(tmp_path / "a.mkv", tmp_path / "out")
    assert (entry.frames, entry.fps) == (8, 20)
    original = read_clip(tmp_path / "a.mkv", [0, 1, 2, 2, 2, 3, 4, 5], short_side=32)[:, :, :42]
    got = read_clip(path, range(8)).astype(float)
    others = np.abs(got[:, None] - original[None].astype(float)).mean(axis=(2, 3, 4))
    assert (others.argmin(axis=1) == [0, 1, 2, 2, 2, 5, 6, 7]).all()


def test_frames_above_the_cap_are_dropped(tmp_path):
    write_video(tmp_path / "a.mp4", pictures(20), fps=60)
    [(entry, path)] = stored(tmp_path / "a.mp4", tmp_path / "out")
    assert (entry.frames, entry.fps) == (10, 30)
    original = read_clip(tmp_path / "a.mp4", range(0, 20, 2), short_side=32)[:, :, :42]
    assert np.abs(read_clip(path, range(10)).astype(float) - original).mean() < 3


def test_keyframes_colors_and_sizes(tmp_path):
    write_video(tmp_path / "a.mp4", pictures(1).repeat(50, axis=0))
    [(_, path)] = stored(tmp_path / "a.mp4", tmp_path / "out", gop=12)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        keys = [p.is_keyframe for p in container.demux(stream) if p.size]
        assert (stream.pix_fmt, stream.codec_context.colorspace) == ("yuv420p", 1)
    assert np.flatnonzero(keys).tolist() == [0, 12, 24, 36, 48]


def test_small_videos_are_not_enlarged(tmp_path):
    write_video(tmp_path / "a.mp4", pictures(3, 20, 26))
    [(entry, _)] = stored(tmp_path / "a.mp4", tmp_path / "out")
    assert (entry.height, entry.width) == (20, 26)


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_rotation_is_applied(tmp_path, rotation, turns):
    write_video(tmp_path / "a.mp4", pictures(3), rotation=rotation)
    write_video(tmp_path / "b.mp4", pictures(3))
    [(entry, path)] = stored(tmp_path / "a.mp4", tmp_path / "out")
    upright = np.rot90(read_clip(tmp_path / "b.mp4", range(3), short_side=32), turns, axes=(1, 2))
    height, width = (side - side % 2 for side in upright.shape[1:3])
    assert (entry.height, entry.width) == (height, width)
    got = read_clip(path, range(3)).astype(float)
    assert np.abs(got - upright[:, :height, :width]).mean() < 4


def test_long_videos_become_parts_of_equal_length(tmp_path):
    write_video(tmp_path / "a.mp4", pictures(60), fps=24)
    found = stored(tmp_path / "a.mp4", tmp_path / "out", max_seconds=1.0)
    assert [entry.name for entry, _ in found] == ["x#t=0,0.833", "x#t=0.833,1.667", "x#t=1.667,2.5"]
    assert [entry.frames for entry, _ in found] == [20, 20, 20]
    original = read_clip(tmp_path / "a.mp4", range(60), short_side=32)[:, :, :42]
    clips = np.concatenate([read_clip(path, range(20)) for _, path in found])
    assert np.abs(clips.astype(float) - original).mean() < 3


def test_a_video_that_was_cut_off_is_left_out_whole(tmp_path):
    write_video(tmp_path / "a.mkv", pictures(96, seed=3))
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(BadMedium, match="cut off"):
        stored(tmp_path / "a.mkv", tmp_path / "out", max_seconds=1.0)


def test_frames_of_another_program_are_stored(tmp_path):
    frames = pictures(10, 64, 96)
    [(entry, path)] = stored(Frames("tfds:x", frames, 12.0), tmp_path / "out")
    assert (entry.frames, entry.fps, entry.height, entry.width) == (10, 12, 32, 48)
    assert read_clip(path, [9]).shape == (1, 32, 48, 3)
    [(entry, path)] = stored(Frames("tfds:x", frames[:1]), tmp_path / "image", "image")
    assert (entry.suffix, entry.height, entry.width) == (".jpg", 32, 48)
    assert np.abs(read_image(path).astype(float) - frames[0, ::2, ::2]).mean() < 40


def test_videos_without_frames_are_left_out(tmp_path):
    with pytest.raises(BadMedium, match="x has no frames"):
        stored(Frames("x", pictures(1)[:0]), tmp_path / "out")


def image_bytes(form, size=(40, 30), **kwargs):
    file = io.BytesIO()
    image = Image.fromarray(pictures(1, size[1], size[0])[0])
    image.save(file, form, **kwargs)
    return file.getvalue()


@pytest.mark.parametrize(("form", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp")])
def test_small_images_stay_as_they_are(tmp_path, form, suffix):
    data = image_bytes(form)
    [(entry, path)] = stored(Blob(f"x{suffix}", data), tmp_path / "out", "image")
    assert path.read_bytes() == data
    assert (entry.suffix, entry.height, entry.width, entry.fps) == (suffix, 30, 40, 1.0)


def test_other_images_become_jpeg(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    for number, (data, size) in enumerate(
        [
            (image_bytes("BMP"), (30, 40)),
            (image_bytes("JPEG", exif=turned), (40, 30)),
            (image_bytes("PNG", (80, 64)), (32, 40)),
        ]
    ):
        [(entry, path)] = stored(Blob("x.png", data), tmp_path / f"out{number}", "image")
        assert (entry.suffix, (entry.height, entry.width)) == (".jpg", size)
        with Image.open(path) as image:
            assert image.size == size[::-1]
        original = read_image(Blob("x.png", data), short_side=min(size))
        assert np.abs(read_image(path).astype(float) - original).mean() < 3


@pytest.mark.parametrize("size", [(8, 64), (16, 12), (16, 16386), (16386, 16)])
def test_media_of_no_use_are_left_out(tmp_path, size):
    frames = np.zeros((2, *size, 3), np.uint8)
    with pytest.raises(BadMedium, match="its sides must be from 16 to 16384"):
        stored(Frames("x", frames), tmp_path / "out")
    with pytest.raises(BadMedium, match="its sides must be from 16 to 16384"):
        stored(Frames("x", frames), tmp_path / "out", "image")


def test_a_disk_that_is_full_is_not_the_fault_of_the_medium(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", pictures(3))
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o500)
    monkeypatch.setattr(
        "cvvae_jax.data.prepare.transcode.VideoWriter.write",
        lambda *_: (_ for _ in ()).throw(UserError("cannot be written: no space")),
    )
    with pytest.raises(UserError, match="no space"):
        stored(tmp_path / "a.mp4", tmp_path / "out")

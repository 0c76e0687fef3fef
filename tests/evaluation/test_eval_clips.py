"""Which frames of a file a protocol measures."""

import dataclasses
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cvvae_jax.errors import UserError
from cvvae_jax.evaluation import clips
from cvvae_jax.evaluation.clips import Clips
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.video_io.images import write_image
from cvvae_jax.video_io.video import read_frames
from cvvae_jax.video_io.video_writer import VideoWriter

FPS = 25


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A video of 20 frames of 24 x 36, one of 4, a broken one, and an image."""
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (24, 36, 3), np.uint8)
    for name, frames in (("a.mp4", 20), ("b.mp4", 4)):
        with VideoWriter(folder / name, fps=FPS, height=24, width=36) as writer:
            for i in range(frames):
                writer.write(np.roll(still, i, axis=1))
    (folder / "c.mp4").write_bytes(b"nothing that plays")
    write_image(folder / "d.png", still)
    return folder


def frames_of(folder: Path) -> np.ndarray:
    return np.stack(list(read_frames(folder / "a.mp4")))


@pytest.mark.parametrize(
    ("protocol", "numbers", "fps"),
    [
        (Protocol(frames=5), range(5), 25),
        (Protocol(frames=5, stride=3), range(0, 15, 3), 25 / 3),
        (Protocol(frames=5, stride=3, start="middle"), range(4, 19, 3), 25 / 3),
        (Protocol(), range(20), 25),
        (Protocol(stride=4), range(0, 20, 4), 25 / 4),
        (Protocol(frames=5, fps=12.5), range(0, 10, 2), 12.5),
        (Protocol(frames=5, fps=60.0), range(5), 25),  # a video of a lower rate keeps its own
    ],
    ids=["first", "stride", "middle", "all", "all-stride", "rate", "lower-rate"],
)
def test_clip_is_these_frames(folder, protocol, numbers, fps):
    clip = Clips(str(folder), protocol)[0]
    np.testing.assert_array_equal(clip.video, frames_of(folder)[list(numbers)])
    info = clip.info
    assert (info.name, info.frames, info.start) == ("a.mp4", len(numbers), numbers[0])
    assert (info.height, info.width) == (24, 36)
    assert info.fps == pytest.approx(fps)
    assert info.sha256 == hashlib.sha256((folder / "a.mp4").read_bytes()).hexdigest()


@pytest.mark.parametrize("size", [16, 31])
def test_frames_are_resized_by_the_filter_and_cropped_in_the_middle(folder, size):
    protocol = Protocol(frames=1, size=size, resize="lanczos")
    width = round(36 * size / 24)
    whole = Image.fromarray(frames_of(folder)[0]).resize((width, size), Image.Resampling.LANCZOS)
    left = (width - size) // 2
    found = Clips(str(folder), protocol)[0].video[0]
    np.testing.assert_array_equal(found, np.asarray(whole)[:, left : left + size])
    uncropped = dataclasses.replace(protocol, crop="none")
    np.testing.assert_array_equal(Clips(str(folder), uncropped)[0].video[0], np.asarray(whole))


@pytest.mark.parametrize(
    ("number", "protocol", "said"),
    [
        (1, Protocol(frames=5), "b.mp4 is too short: it has 4 frames, and 5 at a stride of 1"),
        (0, Protocol(frames=8, stride=3), "it has 20 frames, and 8 at a stride of 3 take 22"),
        (0, Protocol(frames=17, fps=12.5), "a.mp4 is too short: it lasts 0.76 s with 20 frames"),
        (2, Protocol(frames=5), "c.mp4 cannot be read as a video"),
    ],
    ids=["frames", "stride", "rate", "broken"],
)
def test_file_that_gives_no_clip_says_why(folder, number, protocol, said):
    found = Clips(str(folder), protocol)
    with pytest.raises(UserError, match=re.escape(said)):
        found[number]


def test_clips_up_to_the_largest_are_read_and_longer_ones_refused(folder, monkeypatch):
    size = 5 * 24 * 36 * 3
    monkeypatch.setattr(clips, "_LARGEST_CLIP", size)
    assert Clips(str(folder), Protocol(frames=5))[0].video.nbytes == size
    with pytest.raises(UserError, match=r"a\.mp4 has .* GiB of frames; a clip may have"):
        Clips(str(folder), Protocol(frames=6))[0]


def test_images_are_clips_of_one_frame(folder):
    found = Clips(str(folder), Protocol(media="image"))
    assert len(found) == 1
    assert found[0].video.shape == (1, 24, 36, 3)
    assert found[0].info.fps == 1


def test_hash_is_that_of_names_wherever_they_lie(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    pattern = Clips(f"{folder}/*.mp4", Protocol())
    assert [pattern.name(i) for i in range(3)] == ["a.mp4", "b.mp4", "c.mp4"]
    before, elsewhere = (Clips(str(place), Protocol()).hash for place in (folder, tmp_path))
    assert elsewhere == before
    (tmp_path / "a.mp4").rename(tmp_path / "e.mp4")
    assert Clips(str(tmp_path), Protocol()).hash != before


def test_folder_without_clips_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(UserError, match=r"holds no video file: none ends in \.mp4"):
        Clips(str(tmp_path), Protocol())


def test_names_can_be_written_and_shown_whatever_they_hold(tmp_path, folder):
    named = tmp_path / "caf\udce9\x1b[2J\n.mp4"
    named.write_bytes((folder / "a.mp4").read_bytes())
    found = Clips(str(tmp_path), Protocol(frames=5))
    assert found.name(0) == r"caf\udce9\x1b[2J\x0a.mp4"
    assert found[0].info.name == found.name(0)

"""Folders: what is found, in which order, and what is held out."""

import pytest

from cvvae_jax.config import ConfigError
from cvvae_jax.data.sources import ImageFolder, VideoFolder


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(folder, source):
    return [str(source[i].relative_to(folder)) for i in range(len(source))]


def test_files_are_found_recursively_in_order(tmp_path):
    fill(tmp_path, ["b.MP4", "a/z.mkv", "a/.hidden.mp4", "c.txt", "a/y.png", "d.mov"])
    (tmp_path / "folder.mp4").mkdir()
    assert names(tmp_path, VideoFolder(tmp_path, split="all")) == ["a/z.mkv", "b.MP4", "d.mov"]
    assert names(tmp_path, ImageFolder(tmp_path, split="all")) == ["a/y.png"]


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (10, 1), (11, 2), (40, 4)])
def test_every_tenth_file_is_held_out(tmp_path, count, held_out):
    fill(tmp_path, [f"{i:03}.jpg" for i in range(count)])
    train, unseen = (names(tmp_path, ImageFolder(tmp_path, split=s)) for s in ("train", "eval"))
    assert len(unseen) == held_out
    assert sorted(train + unseen) == names(tmp_path, ImageFolder(tmp_path, split="all"))


def test_single_file_is_trained_on_and_leaves_nothing_unseen(tmp_path):
    fill(tmp_path, ["only.mp4"])
    assert len(VideoFolder(tmp_path, split="train")) == 1
    with pytest.raises(ConfigError, match=r"only\.mp4.*--data\.eval-videos"):
        VideoFolder(tmp_path, split="eval")


def test_folder_without_files_is_an_error(tmp_path):
    fill(tmp_path, ["notes.txt"])
    with pytest.raises(ConfigError, match=r"no video file: none ends in \.mp4, \.mkv"):
        VideoFolder(tmp_path, split="train")
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        ImageFolder(tmp_path / "nowhere", split="all")

"""`check`: a file that brings a decoder down is one bad file, and the others are still checked."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from cvvae_jax.cli.main import main
from cvvae_jax.data.check import check
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.media_types import Frames

QUICKSTART = str(Path(__file__).parents[2] / "configs/quickstart.py")


class Deadly:
    """A source some of whose media end the process that reads them."""

    def __init__(self, count, deadly):
        self._count, self._deadly = count, deadly

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if index in self._deadly:
            os._exit(139)
        if index == 1:
            raise UserError("one\nis broken")
        return Frames(str(index), np.zeros((1, 8, 8, 3), np.uint8))

    def name(self, index):
        return str(index)


@pytest.mark.parametrize("deadly", [(), (4,), (0, 8)])
def test_every_file_is_told_of_once_even_if_a_decoder_crashes(deadly):
    found = list(check(Deadly(9, deadly), workers=2))
    assert sorted(name for name, _ in found) == [str(i) for i in range(9)]
    for name, reason in found:
        if int(name) in deadly:
            assert reason == "decoding it ends the process."
        else:
            assert reason == ("one is broken" if name == "1" else None)


def test_a_file_taken_up_while_a_decoder_crashes_is_told_of_too():
    found = []
    for name, _ in check(Deadly(12, (3,)), workers=2):
        time.sleep(0.3)
        found.append(name)
    assert sorted(found, key=int) == [str(i) for i in range(12)]


def test_records_of_shards_without_an_index_are_videos_or_images(tmp_path, capsys):
    """Each is tried as both."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    writer = ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    writer.write((tmp_path / "a.png").read_bytes())
    writer.close()
    (tmp_path / "a.png").unlink()
    assert main(["data", "check", str(tmp_path), "--workers", "1"]) == 0
    assert capsys.readouterr().out == "0 of 1 files are bad.\n"


def test_a_list_that_cannot_be_written_is_found_at_once(tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    mine = tmp_path / "bad.txt"
    mine.write_text("mine")
    assert main(["data", "check", str(tmp_path), "--fix", str(mine), "--workers", "1"]) == 2
    assert "bad.txt exists; --overwrite replaces it." in capsys.readouterr().err
    assert mine.read_text() == "mine"
    fix = str(tmp_path / "nowhere/bad.txt")
    assert main(["data", "check", str(tmp_path), "--fix", fix, "--workers", "1"]) == 2
    assert "bad.txt cannot be written: No such file or directory" in capsys.readouterr().err


def test_good_files_pass(tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert main(["data", "check", str(tmp_path), "--workers", "1"]) == 0
    assert capsys.readouterr().out == "0 of 1 files are bad.\n"


def test_places_without_media_are_refused(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "holds no video file" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["data"], ["data", "clean"], ["data", "show"]])
def test_commands_that_are_none_say_what_there_is(capsys, arguments):
    assert main(arguments) == 2
    assert "usage: python -m cvvae_jax data" in capsys.readouterr().err


def test_show_makes_a_picture_of_all_buckets(tmp_path, capsys):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import dataclasses, runpy\n"
        "from cvvae_jax.config import Bucket\n"
        f"base = runpy.run_path({QUICKSTART!r})['get_config']()\n"
        "buckets = (Bucket(1, 16, 8), Bucket(5, (16, 32), 2), Bucket(1, 24, 8))\n"
        "train = dataclasses.replace(base.train, buckets=buckets, accumulate=2)\n"
        "get_config = lambda: dataclasses.replace(base, train=train)\n"
    )
    target = tmp_path / "clips.png"
    assert main(["data", "show", str(target), str(recipe)]) == 0
    # Two rows of four images, two clips of five frames of twice the width.
    assert Image.open(target).size == (max(5 * (256 + 6) + 6, 480), 3 * 28 + 4 * (128 + 6))
    assert "clips.png" in capsys.readouterr().out
    assert main(["data", "show", str(tmp_path / "clips.xyz"), str(recipe)]) == 2
    assert "cannot be written" in capsys.readouterr().err

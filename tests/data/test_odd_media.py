"""A folder of everything: the bad is named with its reason, and the unusual shows right pixels."""

import itertools
import json
import os
import tempfile
from pathlib import Path

import av
import numpy as np
import odd_media
import pytest

from cvvae_jax.cli.main import main
from cvvae_jax.config import Bucket, DataConfig, StageConfig
from cvvae_jax.data.check import fault
from cvvae_jax.data.pipeline import batches
from cvvae_jax.data.sources import open_source
from cvvae_jax.video_io import video
from cvvae_jax.video_io.images import is_image

pytestmark = pytest.mark.stack

GOOD = (
    odd_media.good_videos()
    | odd_media.grey_videos()
    | odd_media.good_images()
    | odd_media.grey_images()
)
BAD = odd_media.bad_files()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    av.logging.set_level(av.logging.PANIC)
    path = tmp_path_factory.mktemp("odd") / "media"
    odd_media.make(path)
    return path


def test_check_names_every_bad_file_with_its_reason_and_no_good_one(folder, capsys, tmp_path):
    with pytest.raises(SystemExit) as exit_status:
        main(["data", "check", str(folder), "--fix", str(tmp_path / "bad.txt"), "--workers", "2"])
    assert exit_status.value.code == 1
    *lines, total, hint = capsys.readouterr().out.splitlines()
    assert len(lines) == len(BAD) and total.startswith(f"{len(BAD)} of ") and "bad.txt" in hint
    for line, name in zip(lines, sorted(BAD), strict=True):
        assert line.startswith(f"{folder / name} ") and BAD[name][1] in line
    excluded = [line.split("\t")[0] for line in (tmp_path / "bad.txt").read_text().splitlines()]
    assert sorted(excluded) == [str(folder / name) for name in sorted(BAD)]
    stage = StageConfig(steps=1, buckets=(Bucket(1, 8, 4), Bucket(3, 8, 4)))
    data = DataConfig(str(folder), str(folder), exclude=str(tmp_path / "bad.txt"), max_bad=0.0)
    stream = batches(stage, data, seed=0, start_step=0)
    for _ in range(100):
        next(stream)
    assert stream.metrics() == {"data/replaced_records": 0.0, "data/bad_files": 0.0}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_unusual_files_show_right_pixels(folder, name):
    """In the middle of each quarter; 6 levels are left to lossy codecs."""
    frames = [*video.read_frames(folder / name)]
    clip = video.read_clip(folder / name, [0, len(frames) - 1])
    expected = odd_media.COLORS.astype(int)
    if "grey" in name or "sixteen" in name:
        expected = (expected @ [0.299, 0.587, 0.114]).round().astype(int)[..., None]
    counts = {"one frame.mp4": 1, "two frames.mp4": 2}
    assert len(frames) == (1 if is_image(name) else counts.get(name, odd_media.COUNT))
    for frame in (*frames, *clip):
        height, width, _ = frame.shape
        assert (height, width) == ((63, 95) if "odd" in name else (64, 96))
        middles = frame[[height // 4, -height // 4]][:, [width // 4, -width // 4]]
        assert np.abs(middles - expected).max() <= 6


def test_a_hundred_batches_come_from_the_good_files_and_bad_ones_are_told(folder, caplog):
    stage = StageConfig(steps=1, buckets=(Bucket(1, 8, 4), Bucket(3, 8, 4)))
    data = DataConfig(str(folder), str(folder), eval_videos=str(folder), max_bad=1.0)
    stream = batches(stage, data, seed=0, start_step=0)
    for batch in itertools.islice(stream, 100):
        assert batch["video"].shape[0] == 4
    told = " ".join(record.getMessage() for record in caplog.records)
    assert all(str(folder / name) in told for name in BAD)
    assert stream.metrics()["data/bad_files"] == len(BAD)


@pytest.fixture
def public_folder():
    """A folder that everybody may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


def test_an_unreadable_file_is_bad_and_no_more(public_folder):
    """For somebody who may not read it, as root always may."""
    for name in ("a.png", "b.png"):
        odd_media.good_images()["palette.png"](public_folder / name)
    (public_folder / "b.png").chmod(0)
    source = open_source(str(public_folder), "image")
    reader, writer = os.pipe()
    if os.fork() == 0:  # not a new program: nobody else may be allowed to read Python's own files
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setuid(65534)
            found = [fault(source, number) for number in range(2)]
        except BaseException as error:
            found = [repr(error)]
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    found = json.loads(os.read(reader, 10_000))
    os.wait()
    assert found[0] is None
    assert "b.png cannot be read as an image: [Errno 13] Permission denied" in found[1]

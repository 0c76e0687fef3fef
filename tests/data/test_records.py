"""Records: what cannot be decoded is replaced, counted, and in the end stops the run."""

import logging
import tarfile

import numpy as np
import pytest
from test_clips import numbered_video, numbers

from cvvae_jax.config import Bucket, DataConfig, StageConfig
from cvvae_jax.data import records
from cvvae_jax.data.pipeline import batches
from cvvae_jax.data.records import BadRecords, RandomRecord
from cvvae_jax.data.sources import open_source
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.images import read_image, write_image

BUCKET = Bucket(frames=5, size=24, batch=1)


@pytest.fixture
def source(tmp_path):
    """Three good videos after a broken one."""
    (tmp_path / "0.mp4").write_bytes(b"no video")
    for i in range(1, 4):
        numbered_video(tmp_path / f"{i}.mp4", 5, first=10 * i, width=24)
    return open_source(str(tmp_path), "video")


def record(source, index, seed):
    transform = RandomRecord(source, bucket=BUCKET, data=DataConfig())
    return transform.random_map(index, np.random.default_rng(seed))


def test_a_bad_file_is_replaced_always_by_the_same(source):
    records = [record(source, 0, seed) for seed in range(6)]
    assert len({numbers(r["video"])[0] for r in records}) == 1
    assert len({int(r["seed"]) for r in records}) == 6
    assert all("0.mp4 cannot be read as a video" in str(r["bad"]) for r in records)
    assert str(record(source, 1, 0)["bad"]) == ""


def test_replacements_of_different_files_lie_all_over_the_source(tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02}.mp4").write_bytes(b"no video")
    for i in range(20, 24):
        numbered_video(tmp_path / f"{i}.mp4", 5, first=10 * (i - 20), width=24)
    source = open_source(str(tmp_path), "video")
    shown = set()
    for i in range(20):
        try:
            shown.add(numbers(record(source, i, 0)["video"])[0])
        except UserError:  # 20 bad ones in a row are possible here
            continue
    assert len(shown) >= 3


def test_whatever_a_library_raises_a_file_is_only_bad(source, monkeypatch):
    monkeypatch.setattr(records, "random_clip", raising(RuntimeError("oh\nno")))
    with pytest.raises(UserError, match=r"20 files in a row .*mp4: RuntimeError: oh no"):
        record(source, 0, 0)
    monkeypatch.setattr(records, "random_clip", raising(MemoryError()))
    with pytest.raises(MemoryError):
        record(source, 0, 0)


def raising(error):
    def broken(*_):
        raise error

    return broken


def test_a_bad_image_in_a_shard_is_one_bad_file(tmp_path):
    """What is said of it must not change from one time to the next."""
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"no image")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            tar.add(tmp_path / name, name)
    stage = StageConfig(1, (Bucket(1, 8, 4),))
    place = str(tmp_path / "shard.tar")
    with pytest.raises(UserError, match=r"b\.png .*: it is damaged, or of no known format\.$"):
        read_image(open_source(place, "image")[1])
    data = DataConfig(images=place, eval_videos=place, max_bad=1.0)
    stream = batches(stage, data, seed=0, start_step=0)
    for _ in range(10):
        next(stream)
    assert stream.metrics() == {"data/replaced_records": 20.0, "data/bad_files": 1.0}


def test_many_bad_files_in_a_row_are_an_error(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"20 files in a row .*broken\.mp4"):
        record(open_source(str(tmp_path), "video"), 0, 0)


def batch(*bad):
    return {"video": np.zeros((len(bad), 1)), "bad": np.array(bad)}


def test_each_bad_file_is_told_once_and_counted(caplog):
    bad = BadRecords(0.5)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            told = batch("", "a\tbroken\nb\tbroken", "a\tbroken elsewhere", "")
            assert set(bad.take(told)) == {"video"}
    assert [r.getMessage().count("a: broken") for r in caplog.records] == [1, 0]
    assert bad.metrics() == {"data/replaced_records": 6.0, "data/bad_files": 2.0}


@pytest.mark.parametrize(("files", "more"), [(10, ""), (12, "\n  and 2 more")])
def test_a_stopped_run_lists_ten_bad_files(files, more):
    told = [f"{number:02}\tbroken" for number in range(files)] + [""] * (200 - files)
    with pytest.raises(UserError, match=f"^{files} of 200 records") as error:
        BadRecords(0.0).take(batch(*told))
    assert str(error.value).endswith(f"\n  08: broken\n  09: broken{more}")


@pytest.mark.parametrize(("length", "kept"), [(480, 480), (900, 500 - len("ValueError: "))])
def test_long_reasons_are_cut(source, monkeypatch, length, kept):
    monkeypatch.setattr(records, "random_clip", raising(ValueError("x" * length)))
    with pytest.raises(UserError, match=rf"mp4: ValueError: x{{{kept}}}$"):
        record(source, 0, 0)


def test_a_run_stops_when_more_than_the_share_is_bad():
    bad = BadRecords(0.25)
    for _ in range(49):  # 196 records are too few to judge by
        bad.take(batch("a\tbroken", "b\tbroken", "", ""))
    with pytest.raises(UserError, match=r"100 of 200 records .*\n  a: broken\n  b: broken"):
        bad.take(batch("a\tbroken", "b\tbroken", "", ""))
    enough = BadRecords(0.25)
    for _ in range(100):
        enough.take(batch("a\tbroken", "", "", ""))

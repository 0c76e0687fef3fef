"""Records of latents: what is in them, and how they are read back."""

import dataclasses
import functools
import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import grain
import numpy as np
import pytest
from latents_of import (
    PlainEncoder,
    assert_same_records,
    model,
    records,
    write,
    write_sources,
)
from packets import MEDIA

import cvvae_jax
from cvvae_jax.data.record_shards import open_shard
from cvvae_jax.errors import UserError
from cvvae_jax.latents import dataset
from cvvae_jax.latents.dataset import _reader as open_reader
from cvvae_jax.latents.dataset_clips import read_clips
from cvvae_jax.latents.dataset_options import LatentsConfig
from cvvae_jax.video_io.media_types import Frames
from cvvae_jax.video_io.video import read_frames

REPOSITORY = Path(__file__).resolve().parents[2]
FORMATS = ("array_record", "webdataset")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("latents") / "corpus")


@pytest.fixture(scope="module")
def whole(corpus):
    """The corpus as whole videos, in one process."""
    target = corpus.parent / "whole"
    done = write(corpus, target)
    assert not done.was_complete and done.missing == 0
    return target


@pytest.mark.parametrize("format", FORMATS)
def test_a_record_is_what_the_encoder_gave_and_what_is_known_of_the_file(
    corpus, whole, tmp_path, format
):
    write(corpus, tmp_path / "out", format=format)
    found = records(tmp_path / "out")
    names = [f"v/{number}.mp4" for number in range(5)] + ["i/0.png", "i/1.png"]
    assert [record["name"] for record in found] == names
    for record in found:
        video = np.stack(list(read_frames(corpus / record["name"])))
        expected = PlainEncoder()(video[None], [(0, 0)])
        for name, array in expected.items():
            np.testing.assert_array_equal(record[name], array[0], strict=True)
        is_image = record["kind"] == "image"
        known = {
            **{"frames": len(video), "fps": 1.0 if is_image else 24.0, "clip": 0, "start": 0},
            **{"height": 40 if is_image else 48, "width": 60 if is_image else 64},
            **{"crop_top": 0, "crop_left": 0, "weights": "0" * 64},
            **{"scaling_factor": 0.5, "shift_factor": 0.25},
        }
        assert record.items() >= known.items()
        for size in ("original", "resized"):
            assert record[f"{size}_height"] == known["height"]
            assert record[f"{size}_width"] == known["width"]
    assert_same_records(found, records(whole))


def test_records_say_when_uneven_frames_are_shown(tmp_path):
    """25 frames a second for 1 s, then 5; pixels twice as wide as high."""
    (tmp_path / "in").mkdir()
    for name in ("vfr_with_sound.mp4", "sar_2_1.mp4"):
        shutil.copy(MEDIA / name, tmp_path / "in" / name)
    write(tmp_path / "in", tmp_path / "out", clip_frames=20)
    wide, *_, uneven = records(tmp_path / "out")
    np.testing.assert_allclose(wide["seconds"], np.arange(20) / 25, rtol=0, atol=1e-9)
    assert wide["pixel_aspect"] == 2
    assert (uneven["start"], uneven["pixel_aspect"]) == (20, 1)
    times = [k / 25 for k in range(5)] + [0.2 + k / 5 for k in range(15)]
    np.testing.assert_allclose(uneven["seconds"], times, rtol=0, atol=1e-9)


@pytest.mark.parametrize("format", FORMATS)
def test_the_mean_and_deviation_of_channels_are_said(corpus, tmp_path, format):
    scale = {"latents_mean": (1.5, 2.5), "latents_std": (3.0, 4.0)}
    normed = dataclasses.replace(model(), **scale)
    write(corpus / "i", tmp_path / "out", by=normed, format=format)
    for record in records(tmp_path / "out"):
        for name, values in scale.items():
            np.testing.assert_array_equal(record[name], np.array(values), strict=True)
    assert write(corpus / "i", tmp_path / "out", by=normed, format=format).was_complete
    with pytest.raises(UserError, match=r"begun with latents-mean \[1\.5, 2\.5\], not None"):
        write(corpus / "i", tmp_path / "out", format=format)


def test_without_them_records_hold_nothing_that_makes_no_batch(whole):
    assert all(value is not None for record in records(whole) for value in record.values())


def test_statistics_are_those_of_samples_of_the_posterior(whole):
    """Every channel has statistics over all places of all records; 1e-12 is for two ways to sum in
    float64."""
    found = records(whole)
    mean, logvar = (
        np.concatenate([record[name].reshape(-1, 2) for record in found]).astype(np.float64)
        for name in ("mean", "logvar")
    )
    statistics = cvvae_jax.LatentsDataset(whole).statistics
    np.testing.assert_allclose(statistics.mean, mean.mean(0), rtol=1e-12)
    variance = np.exp(logvar).mean(0) + mean.var(0)
    np.testing.assert_allclose(statistics.std, np.sqrt(variance), rtol=1e-12)


def test_statistics_of_samples_are_their_own(corpus, tmp_path):
    write(corpus, tmp_path / "out", PlainEncoder(sample=True), sample=True)
    found = np.concatenate([each["latents"].reshape(-1, 2) for each in records(tmp_path / "out")])
    statistics = cvvae_jax.LatentsDataset(tmp_path / "out").statistics
    np.testing.assert_allclose(statistics.mean, found.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.std, found.astype(np.float64).std(0), rtol=1e-12)


def test_bad_files_are_left_out_whole_and_listed(corpus, whole, tmp_path):
    """The damaged video gives clips before its damage; none of them is in the set."""
    encoder = PlainEncoder()
    done = write(corpus, tmp_path / "out", encoder, clip_frames=1)
    assert encoder.calls > done.statistics["records"] + 5
    assert {record["name"] for record in records(tmp_path / "out")} == {
        record["name"] for record in records(whole)
    }
    for target in (tmp_path / "out", whole):
        rows = [line.split("\t") for line in (target / "bad.tsv").read_text().splitlines()]
        assert {Path(name).name for name, _ in rows} == {"cut.mkv", "bad.jpg"}
        assert "ends early" in rows[0][1] and "cannot be read as an image" in rows[1][1]
    write(corpus, tmp_path / "again", exclude=str(whole / "bad.tsv"))
    assert (tmp_path / "again/bad.tsv").read_text() == ""


def test_latents_that_are_no_numbers_are_not_stored(corpus, tmp_path):
    class Broken(PlainEncoder):
        def __call__(self, video, keys):
            arrays = super().__call__(video, keys)
            if keys == [(1, 0)]:
                arrays["mean"][0, 0, 0, 0, 0] = np.nan
            if keys == [(3, 0)]:
                arrays["mean"][0, 0, 0, 0, 0] = 1e5  # too large for float16
            return arrays

    write(corpus, tmp_path / "out", Broken(), store="float16")
    assert {record["item"] for record in records(tmp_path / "out")} == {0, 2, 4, 6, 7}
    assert "no finite float16 numbers" in (tmp_path / "out/bad.tsv").read_text()


def test_clips_follow_each_other_and_what_is_left_is_counted(corpus, tmp_path):
    done = write(corpus, tmp_path / "out", clip_frames=19, size=40)
    found = records(tmp_path / "out")
    videos = [record for record in found if record["kind"] == "video"]
    assert [(each["name"], each["start"], each["frames"]) for each in videos] == [
        (f"v/{number}.mp4", 0, 19) for number in (1, 2, 3, 4)
    ]
    assert done.statistics["left_out_frames"] == 0 + 1 + 2 + 3
    assert "has 18 frames, fewer than a clip of 19" in (tmp_path / "out/bad.tsv").read_text()
    done = write(corpus, tmp_path / "short", clip_frames=5, size=40)
    found = [each for each in records(tmp_path / "short") if each["kind"] == "video"]
    assert [each["start"] for each in found[:3]] == [0, 5, 10]
    assert done.statistics["left_out_frames"] == 3 + 4 + 0 + 1 + 2


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48)])
def test_the_crop_is_the_square_in_the_middle(height, width):
    """Frames as they are decoded by someone else, so that no codec blurs them."""
    frames = np.zeros((1, height, width, 3), np.uint8)
    frames[:, height // 2 - 24 : height // 2 + 24, width // 2 - 24 : width // 2 + 24] = 200
    media = Frames("some", frames, fps=30.0)
    (clip,) = read_clips(media, "video", LatentsConfig(size=48), PlainEncoder.limits)
    assert (clip.video == 200).all() and clip.video.shape == (1, 48, 48, 3)
    assert (clip.box.top, clip.box.left) == ((height - 48) // 2, (width - 48) // 2)
    (clip,) = read_clips(media, "video", LatentsConfig(size=24), PlainEncoder.limits)
    assert clip.box.resized == (height // 2, width // 2) and clip.video.shape == (1, 24, 24, 3)
    with pytest.raises(UserError, match="fewer than the size 49; frames are never enlarged"):
        list(read_clips(media, "video", LatentsConfig(size=49), PlainEncoder.limits))


def test_a_long_video_becomes_several_records(corpus, tmp_path):
    """Nine frames of 64x48 fit into 0.08 MiB: 1 + 4k that none is padded but the last."""
    done = write(corpus, tmp_path / "out", record_mb=0.08)
    found = [record for record in records(tmp_path / "out") if record["name"] == "v/4.mp4"]
    assert [(each["clip"], each["start"], each["frames"]) for each in found] == [
        (0, 0, 9),
        (1, 9, 9),
        (2, 18, 4),
    ]
    assert done.statistics["left_out_frames"] == 0


def test_a_batch_changes_no_record(corpus, tmp_path):
    shapes = []

    class Noting(PlainEncoder):
        def __call__(self, video, keys):
            shapes.append(video.shape)
            return super().__call__(video, keys)

    settings = {"clip_frames": 5, "size": 40}
    write(corpus, tmp_path / "one", **settings)
    write(corpus, tmp_path / "three", Noting(), batch=3, **settings)
    assert_same_records(records(tmp_path / "three"), records(tmp_path / "one"))
    assert set(shapes) == {(3, 5, 40, 40, 3), (3, 1, 40, 40, 3)}
    with pytest.raises(UserError, match="set clip-frames and size"):
        LatentsConfig(batch=2, size=40)


def test_tar_shards_are_samples_of_webdataset(corpus, tmp_path):
    """WebDataset's rule: what stands before the first dot is the key, and files of one key follow
    each other."""
    write(corpus, tmp_path / "out", format="webdataset", store="float16")
    names = []
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        names += [member.name for member in members]
        assert all((m.mtime, m.uid, m.uname) == (0, 0, "") for m in members)
    index = map(json.loads, (tmp_path / "out/index.jsonl").read_text().splitlines())
    for row in index:
        with open(tmp_path / "out" / row["shard"], "rb") as file:
            file.seek(row["place"])
            part = io.BytesIO(file.read(row["bytes"]))
        with tarfile.open(fileobj=part) as tar:
            assert len({name.partition(".")[0] for name in tar.getnames()}) == 1
    keys = list(dict.fromkeys(name.partition(".")[0] for name in names))
    assert len(keys) == 7 and "/" not in "".join(keys)
    assert names == [f"{key}.{end}" for key in keys for end in ("json", "logvar.npy", "mean.npy")]
    assert records(tmp_path / "out")[0]["mean"].dtype == np.float16


@pytest.mark.parametrize("format", FORMATS)
def test_the_set_is_a_source_for_grain(corpus, whole, tmp_path, format):
    write(corpus, tmp_path / "out", format=format)
    dataset = cvvae_jax.LatentsDataset(
        tmp_path / "out", keep=lambda record: record["kind"] == "image"
    )
    sent = pickle.loads(pickle.dumps(dataset))
    assert len(sent) == 2 and sent[0]["name"] == "i/0.png"
    batches = grain.MapDataset.source(sent).seed(0).shuffle().batch(2)
    (batch,) = list(batches.to_iter_dataset())
    assert batch["mean"].shape == (2, 1, 5, 8, 2)
    for outside in (2, -1):
        with pytest.raises(IndexError):
            dataset[outside]


def test_sets_that_cannot_be_read_are_refused_in_a_sentence(corpus, whole, tmp_path):
    with pytest.raises(UserError, match=r"no folder that `latents` wrote"):
        cvvae_jax.LatentsDataset(corpus)
    with pytest.raises(KeyboardInterrupt):
        write(corpus, tmp_path / "out", PlainEncoder(fails_at=4))
    with pytest.raises(UserError, match="is not finished: give the same `latents` command"):
        cvvae_jax.LatentsDataset(tmp_path / "out")
    with pytest.raises(UserError, match="keeps none of its records"):
        cvvae_jax.LatentsDataset(whole, keep=lambda record: False)


@pytest.mark.parametrize("format", FORMATS)
def test_damage_is_named_with_its_shard(corpus, tmp_path, format):
    """Some bytes of the first record, and an empty shard."""
    write(corpus, tmp_path / "out", format=format)
    shard = next((tmp_path / "out").glob("*000000-of*"))
    data = bytearray(shard.read_bytes())
    start = data.index(b"crop_top") if format == "array_record" else 0
    data[start : start + 20] = bytes(20)
    for damaged in (data, b""):
        shard.write_bytes(damaged)
        open_reader.cache_clear()
        with pytest.raises(UserError, match=rf"{shard.name}.* is .*damaged"):
            cvvae_jax.LatentsDataset(tmp_path / "out")[0]


def test_more_shards_than_stay_open_are_read_again(whole, monkeypatch):
    cached = functools.lru_cache(maxsize=2)(open_shard)
    monkeypatch.setattr(dataset, "_reader", cached)
    latents, found = cvvae_jax.LatentsDataset(whole), records(whole)
    again = [latents[number] for number in reversed(range(len(found)))]
    assert_same_records(again[::-1], found)
    assert cached.cache_info().misses > cached.cache_info().currsize == 2


def test_a_relative_path_is_that_of_the_folder_one_works_in(corpus, whole, tmp_path, monkeypatch):
    """Also where another folder had a set of that name, whose shards are still open."""
    write(corpus, tmp_path / "whole", clip_frames=4)
    monkeypatch.chdir(whole.parent)
    first = records("whole")
    monkeypatch.chdir(tmp_path)
    assert_same_records(records("whole"), records(tmp_path / "whole"))
    assert first[0]["frames"] != records("whole")[0]["frames"]


def test_reading_needs_no_jax(whole):
    code = (
        f"import sys, cvvae_jax; cvvae_jax.LatentsDataset({str(whole)!r})[0]; "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0

"""Data sets that TensorFlow Datasets prepared: what is found in them, and read of them."""

import hashlib
import io
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from test_clips import numbered_video, numbers

from cvvae_jax.data import tfds_source
from cvvae_jax.data.tfds_source import TFDSSource, is_tfds
from cvvae_jax.errors import UserError
from cvvae_jax.video_io import video

pytestmark = pytest.mark.stack

BYTES = tfds.features.Tensor(shape=(), dtype=np.bytes_)
FEATURES = {
    "clip": BYTES,
    "fps": tfds.features.Scalar(np.float32),
    "flow": tfds.features.Tensor(shape=(None, 8, 10, 3), dtype=np.float32),
    "frames": tfds.features.Tensor(shape=(None, 8, 10, 3), dtype=np.uint8),
    "gray": tfds.features.Tensor(shape=(8, 10, 1), dtype=np.uint8),
    "label": tfds.features.ClassLabel(num_classes=9),
    "nested": {"photo": tfds.features.Image()},
    "several": tfds.features.Sequence({"photo": tfds.features.Image()}),
    "text": tfds.features.Text(),
}
PHOTO = np.arange(240, dtype=np.uint8).reshape(8, 10, 3)


def png():
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "PNG")
    return file.getvalue()


def prepare(data_dir, examples, keys, name="small"):
    """Prepare a data set with some of FEATURES."""

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({key: FEATURES[key] for key in keys})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            kept = [{key: example[key] for key in keys} for example in examples]
            return {"train": enumerate(kept), "test": enumerate(kept[:1])}

        def _generate_examples(self):
            raise NotImplementedError

    Prepared.name = name
    builder = Prepared(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(file_format="array_record")
    return Path(builder.data_dir)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    clip = numbered_video(folder / "a.mp4", 6).read_bytes()
    photo = folder / "a.png"
    photo.write_bytes(png())
    return [
        {
            "clip": clip if i < 4 else b"not a video",
            "fps": 12.5 if i else 0.0,
            "flow": np.zeros((3, 8, 10, 3), np.float32),
            "frames": np.full((3, 8, 10, 3), 7, np.uint8),
            "gray": np.full((8, 10, 1), 90, np.uint8),
            "label": i,
            "nested": {"photo": photo},
            "several": [{"photo": photo}, {"photo": photo}],
            "text": "a video",
        }
        for i in range(5)
    ]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, examples):
    """A folder of data sets: `small` with all features, and `clips`, `tensors`, `photos`."""
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder, examples, list(FEATURES))
    prepare(folder, examples, ["clip", "text", "label"], name="clips")
    prepare(folder, examples, ["flow", "frames", "gray", "fps"], name="tensors")
    prepare(folder, examples, ["label", "nested", "several"], name="photos")
    return folder


def by_label(folder):
    """{label of an example: its number}: tfds shuffles what it prepares."""
    records = tfds.builder_from_directory(folder).as_data_source("train")
    return {record["label"]: i for i, record in enumerate(records)}


def test_videos_in_bytes_are_the_files_they_were(data_dir, examples):
    source = TFDSSource(f"tfds:clips?data_dir={data_dir}", "video")
    numbered = by_label(data_dir / "clips/1.0.0")
    blob = source[numbered[2]]
    assert len(source) == 5 and blob.data == examples[2]["clip"]
    assert source.name(3) == "tfds:clips?split=train[3]"
    assert str(source[numbered[2]]) == f"{source.name(numbered[2])}.mp4"
    assert numbers(video.read_clip(blob, [0, 3, 5])) == [0, 3, 5]


@pytest.mark.parametrize(("most", "looked_at"), [(8, 5), (2, 2)])
def test_a_feature_is_told_by_the_first_examples(data_dir, monkeypatch, most, looked_at):
    """One of the five has no video."""
    seen, read = set(), tfds_source._Examples.read
    monkeypatch.setattr(tfds_source, "_SAMPLES", most)
    monkeypatch.setattr(
        tfds_source._Examples,
        "read",
        lambda self, index, _: seen.add(index) or read(self, index, _),
    )
    assert len(TFDSSource(f"tfds:clips?data_dir={data_dir}", "video")) == 5
    assert seen == set(range(looked_at))


def test_an_example_without_a_video_is_a_bad_record(data_dir):
    source = TFDSSource(f"tfds:clips?data_dir={data_dir}", "video")
    bad = by_label(data_dir / "clips/1.0.0")[4]
    with pytest.raises(UserError, match=r"split=train\[\d\] holds no video in its feature clip"):
        source[bad]


def test_tensors_of_frames_are_videos(data_dir):
    source = TFDSSource(f"tfds:tensors?data_dir={data_dir}", "video")
    media = [source[i] for i in range(len(source))]
    assert {frames.array.shape for frames in media} == {(3, 8, 10, 3)}
    assert (video.read_clip(media[0], [0, 2]) == 7).all()
    # One states a rate that cannot be.
    assert sorted(frames.fps for frames in media) == [12.5] * 4 + [25.0]


def test_gray_tensors_are_images(data_dir):
    frames = TFDSSource(f"tfds:tensors?data_dir={data_dir}", "image")[0]
    assert frames.array.shape == (1, 8, 10, 3) and (frames.array == 90).all()


def test_images_come_as_the_files_they_were(data_dir):
    source = TFDSSource(f"tfds:photos?data_dir={data_dir}", "image")
    assert source[1].data == png() and str(source[1]).endswith("[1].png")
    np.testing.assert_array_equal(video.read_clip(source[1], [0])[0], PHOTO)


def test_a_feature_is_chosen_by_its_name(data_dir):
    place = f"tfds:small?data_dir={data_dir}&feature="
    assert TFDSSource(f"{place}frames", "video")[0].array.shape == (3, 8, 10, 3)
    assert TFDSSource(f"{place}gray", "image")[0].array.shape == (1, 8, 10, 3)
    assert TFDSSource(f"{place}nested/photo", "image")[0].data == png()


@pytest.mark.parametrize(
    ("split", "length"),
    [("train", 5), ("test", 1), ("train+test", 6), ("train[:40%]", 2), ("train[1:4]", 3)],
)
def test_splits_and_their_parts(data_dir, split, length):
    source = TFDSSource(f"tfds:clips?split={split}&data_dir={data_dir}", "video")
    assert len(source) == length
    assert source.name(0) == f"tfds:clips?split={split}[0]"


def test_ways_to_name_a_data_set(data_dir, monkeypatch):
    for name in (
        f"clips:1.0.0?data_dir={data_dir}",
        f"clips:1.*.*?data_dir={data_dir}",
        f"clips/1.0.0?data_dir={data_dir}",
        f"./clips/1.0.0?data_dir={data_dir}",
        f"{data_dir}/clips/1.0.0",
    ):
        assert len(TFDSSource(f"tfds:{name}", "video")) == 5
    monkeypatch.chdir(data_dir / "clips")
    assert len(TFDSSource("tfds:1.0.0", "video")) == 5
    assert is_tfds("tfds:clips") and not is_tfds("clips") and not is_tfds("/tfds:a")


def test_another_process_reads_the_same_without_tensorflow(data_dir, tmp_path):
    """And imports tensorflow_datasets when it reads, not before."""
    source = TFDSSource(f"tfds:photos?data_dir={data_dir}", "image")
    (tmp_path / "sent").write_bytes(pickle.dumps(source))
    program = """
import hashlib, pickle, sys
source = pickle.load(open(sys.argv[1], "rb"))
assert "tensorflow_datasets" not in sys.modules
print(len(source), source.name(1), hashlib.sha256(source[1].data).hexdigest())
assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules
assert "jax" not in sys.modules
"""
    command = [sys.executable, "-c", program, str(tmp_path / "sent")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    digest = hashlib.sha256(png()).hexdigest()
    assert done.stdout.split() == ["5", source.name(1), digest], done.stderr


@pytest.mark.parametrize(
    ("place", "kind", "message"),
    [
        ("tfds:", "video", r"tfds:.*: it has no name; write tfds:NAME"),
        ("tfds:clips?fold=1", "video", r"fold is no option, or has no value; write tfds:NAME"),
        ("tfds:clips?split=", "video", r"split is no option, or has no value"),
        ("tfds:clips?split=val", "video", r"no split val, .*: there are train, test, and parts"),
        ("tfds:clips?split=train[:", "video", r"no split train\[:, .*: there are train, test"),
        (
            "tfds:clips?split=train[:0%]",
            "video",
            r"no split train\[:0%\], or nothing in it: there are",
        ),
        ("tfds:clips?feature=film", "video", r"no feature film: it has clip: Tensor\(shape=\(\)"),
        ("tfds:clips?feature=label", "video", r"label is no feature of videos, which is a uint8"),
        ("tfds:photos?feature=several", "image", r"several is no feature of images, which is"),
        ("tfds:photos?feature=nested/photo", "video", r"nested/photo is no feature of videos"),
        ("tfds:photos", "video", r"holds the videos\? It has none, .* nested/photo: Image\("),
        ("tfds:clips", "image", r"holds the images\? It has none, .*bytes of an image file: give"),
        ("tfds:small", "video", r"It has several features of videos \(frames, clip\), where one"),
        ("tfds:small", "image", r"It has several features of images \(gray, nested/photo\), wh"),
        ("tfds:absent", "video", r"not prepared: .* absent.*download_and_prepare\(file_format="),
        ("tfds:clips:2.0.0", "video", r"not prepared: .*clips:2\.0\.0\."),
        ("tfds:clips/large", "video", r"not prepared: .*clips/large\."),
        ("tfds:huggingface:clips", "video", r"not prepared: .*huggingface:clips\."),
        ("tfds:/absent", "video", r"/absent.* is not prepared: Could not read dataset info"),
    ],
)
def test_what_is_not_there_is_an_error(data_dir, place, kind, message):
    separator = "&" if "?" in place else "?"
    with pytest.raises(UserError, match=message):
        TFDSSource(f"{place}{separator}data_dir={data_dir}", kind)


@pytest.fixture
def altered(data_dir, tmp_path):
    """A copy of the data set `clips`, and a function that alters one of its JSON files."""
    folder = tmp_path / "clips"
    shutil.copytree(data_dir / "clips/1.0.0", folder)

    def alter(name, change):
        path = folder / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return folder, alter


@pytest.mark.parametrize("file_format", ["tfrecord", "parquet"])
def test_what_is_prepared_in_another_format_is_refused(altered, file_format):
    folder, alter = altered
    alter("dataset_info.json", lambda info: info.update(fileFormat=file_format))
    with pytest.raises(
        UserError,
        match=rf"not prepared as ArrayRecord but as {file_format}, .*"
        r"builder\.download_and_prepare\(file_format=\"array_record\"\)",
    ):
        TFDSSource(f"tfds:{folder}", "video")


def test_what_needs_tensorflow_is_refused(altered):
    folder, alter = altered
    video = {
        "pythonClassName": "tensorflow_datasets.core.features.video_feature.Video",
        "video": {"shape": {"dimensions": ["-1", "8", "8", "3"]}, "dtype": "uint8"},
    }
    alter("features.json", lambda f: f["featuresDict"]["features"].update(film=video))
    with pytest.raises(UserError, match=r"needs tensorflow, as a Video .*: store videos as the"):
        TFDSSource(f"tfds:{folder}", "video")


def test_a_damaged_shard_is_a_bad_record(altered):
    folder, _ = altered
    (shard,) = folder.glob("*train*")
    shard.write_bytes(shard.read_bytes()[:-100])
    source = TFDSSource(f"tfds:{folder}?feature=clip", "video")
    with pytest.raises(UserError, match=r"split=train\[2\] cannot be read: .*orrupted"):
        source[2]


def test_a_data_set_that_vanished_is_a_bad_record(altered):
    folder, _ = altered
    source = TFDSSource(f"tfds:{folder}", "video")
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"\[0\] cannot be read: Could not read dataset info"):
        source[0]


def test_without_tfds_its_package_is_named(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="not installed: pip install tensorflow-datasets"):
        TFDSSource(f"tfds:clips?data_dir={data_dir}", "video")

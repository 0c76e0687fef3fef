"""Records of ArrayRecord shards: ours, TFDS's, bare files; and what damaged shards do."""

import functools
import io
import pickle
import random

import numpy as np
import pytest
from array_record.python import array_record_module
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from cvvae_jax.data import record_shards
from cvvae_jax.data.record_format import Entry, encode
from cvvae_jax.data.record_shards import RecordShards, are_shards
from cvvae_jax.data.sources import open_source
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.images import read_image

pytestmark = pytest.mark.stack

MP4 = b"\0\0\0\x20ftypisom" + bytes(20)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def write_shard(path, records, options="group_size:1"):
    writer = array_record_module.ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()


def example(**features):
    message = tf_example_pb2.Example()
    for name, value in features.items():
        message.features.feature[name].bytes_list.value.append(value)
    return message.SerializeToString()


def entry(kind="video", **changes):
    values = {"name": "a", "kind": kind, "suffix": ".mp4", "frames": 3, "fps": 24.0}
    return Entry(**{**values, "height": 16, "width": 32, "sha256": "00", **changes})


def test_places(tmp_path):
    write_shard(tmp_path / "x.array_record-00000-of-00001", [MP4])
    (tmp_path / "above").mkdir()
    assert are_shards(str(tmp_path / "x.array_record-00000-of-00001"))
    assert are_shards(str(tmp_path / "*.array_record*"))
    assert are_shards(str(tmp_path))
    assert not are_shards(str(tmp_path / "above"))
    assert not are_shards(str(tmp_path / "*.mp4"))
    assert not are_shards(str(tmp_path / "missing"))
    assert are_shards(f"file://{tmp_path}")
    with pytest.raises(UserError, match="read from local disks only; copy"):
        open_source(f"file://{tmp_path}", "video")
    with pytest.raises(UserError, match="there is no such ArrayRecord file"):
        RecordShards(str(tmp_path / "y.array_record*"), "video")


def test_records_of_every_sort(tmp_path):
    records = [
        MP4,
        encode(entry(), MP4 + b"1"),
        example(label=b"dog", clip=MP4 + b"2"),
    ]
    write_shard(tmp_path / "b.array_record", records[:1])
    write_shard(tmp_path / "c.array_record", records[1:])
    write_shard(tmp_path / "a.array_record", [])
    source = open_source(str(tmp_path), "video")
    assert [source[i].data for i in range(len(source))] == [MP4, MP4 + b"1", MP4 + b"2"]
    assert source.name(2) == f"{tmp_path}/c.array_record#1"
    assert source[2].name == f"{tmp_path}/c.array_record#1.mp4"
    with pytest.raises(IndexError):
        RecordShards(str(tmp_path), "video")[3]


def test_more_shards_than_stay_open_are_read_again(tmp_path, monkeypatch):
    reader = functools.lru_cache(maxsize=2)(record_shards.open_shard)
    monkeypatch.setattr(record_shards, "_reader", reader)
    for number in range(5):
        write_shard(tmp_path / f"{number}.array_record", [MP4 + bytes([number])])
    source = RecordShards(str(tmp_path), "video")
    for index in (0, 1, 2, 3, 4, 0, 3, 0, 1):
        assert source[index].data == MP4 + bytes([index])
    assert reader.cache_info()[:4] == (1, 8, 2, 2)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (PNG, r"a\.array_record#0, a png file, is no video"),
        (b"hello world", "neither a media file nor a tf.train.Example"),
        (example(label=b"dog"), "has no features that are media files"),
        (example(a=MP4, b=MP4), "has 2 features that are media files"),
    ],
    ids=["other kind", "text", "no media", "two media"],
)
def test_records_of_no_use_are_refused(tmp_path, record, says):
    write_shard(tmp_path / "a.array_record", [record])
    source = RecordShards(str(tmp_path), "video")
    with pytest.raises(UserError, match=says):
        source[0]


def write_index(folder, lines):
    template = '{{"shard": "{}", "position": {}, "kind": "{}"}}\n'
    (folder / "index.jsonl").write_text("".join(template.format(*line) for line in lines))


def test_an_index_says_which_records_are_of_a_kind(tmp_path):
    write_shard(tmp_path / "a.array_record", [MP4, PNG, MP4 + b"1"])
    write_shard(tmp_path / "b.array_record", [PNG + b"1"])
    rows = [("a.array_record", i, kind) for i, kind in enumerate(["video", "image", "video"])]
    write_index(tmp_path, [*rows, ("b.array_record", 0, "image")])
    videos, images = (open_source(str(tmp_path), kind) for kind in ("video", "image"))
    assert [videos[i].data for i in range(len(videos))] == [MP4, MP4 + b"1"]
    assert [images[i].data for i in range(len(images))] == [PNG, PNG + b"1"]
    assert len(RecordShards(str(tmp_path / "a.array_record"), "image")) == 1
    with pytest.raises(UserError, match="holds no video: none of its records is one"):
        RecordShards(str(tmp_path / "b.array_record"), "video")
    (tmp_path / "b.array_record").unlink()
    with pytest.raises(UserError, match=r"names b\.array_record, which does not lie beside it"):
        RecordShards(str(tmp_path), "video")
    write_index(tmp_path, [*rows, ("a.array_record", 3, "video")])
    with pytest.raises(UserError, match=r"not the shard of its index.jsonl: it has 3 .* have 4"):
        RecordShards(str(tmp_path), "video")[0]
    write_index(tmp_path, [("a.array_record", 3, "video")])
    with pytest.raises(UserError, match=r"the records of a\.array_record once each"):
        RecordShards(str(tmp_path), "video")
    (tmp_path / "index.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="line 1 is no line that `data prepare` writes"):
        RecordShards(str(tmp_path), "video")


def test_shards_of_an_unfinished_run_are_refused(tmp_path):
    """Such shards may be some of many, and nothing says yet of which kind their records are."""
    write_shard(tmp_path / "a.array_record", [b""])
    (tmp_path / "prepare.json").write_text("{}")
    with pytest.raises(UserError, match="is not finished: `data prepare` goes on"):
        RecordShards(str(tmp_path), "video")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert len(RecordShards(str(tmp_path), "video")) == 1


def test_folders_have_indexes_of_their_own(tmp_path):
    for name, kind in [("one", "image"), ("two", "video")]:
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "a.array_record", [MP4 + name.encode()])
        write_index(tmp_path / name, [("a.array_record", 0, kind)])
    source = RecordShards(str(tmp_path / "*/a.array_record"), "video")
    assert [source[i].data for i in range(len(source))] == [MP4 + b"two"]


def test_a_source_that_was_read_can_be_sent_to_another_process(tmp_path):
    write_shard(tmp_path / "a.array_record", [MP4])
    source = RecordShards(str(tmp_path), "video")
    assert source[0].data == MP4
    assert pickle.loads(pickle.dumps(source))[0].data == MP4


def test_damage_is_an_error_and_never_wrong_data(tmp_path):
    rng = random.Random(0)
    records = [MP4 + rng.randbytes(30000) for _ in range(10)]
    path = tmp_path / "a.array_record"
    write_shard(path, records)
    sound = path.read_bytes()
    failures = 0
    for place in [rng.randrange(len(sound)) for _ in range(60)] + [len(sound) - 65536]:
        data = bytearray(sound)
        data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        for index, record in enumerate(records):
            try:
                assert RecordShards(str(path), "video")[index].data == record
            except UserError as error:
                failures += 1
                assert "a.array_record" in str(error) and "damaged" in str(error)
    assert failures > 30


@pytest.mark.parametrize("size", [30, 30000])
@pytest.mark.parametrize("options", ["group_size:1", "group_size:1,uncompressed"])
def test_shards_that_were_cut_off_are_refused(tmp_path, options, size):
    rng = random.Random(0)
    path = tmp_path / "a.array_record"
    write_shard(path, [rng.randbytes(size) for _ in range(10)], options)
    sound = path.read_bytes()
    for length in [0, 10, *range(65536, len(sound), 65536), len(sound) // 2, len(sound) - 1]:
        path.write_bytes(sound[:length])
        with pytest.raises(UserError, match=r"a\.array_record is damaged, cut off, or no Array"):
            RecordShards(str(path), "video")


def test_what_is_no_shard_is_refused(tmp_path):
    (tmp_path / "a.array_record").write_bytes(b"hello world\n" * 20000)
    with pytest.raises(UserError, match="damaged, cut off, or no ArrayRecord file"):
        RecordShards(str(tmp_path), "video")


def test_grouped_records_can_be_read(tmp_path):
    write_shard(tmp_path / "a.array_record", [MP4 + bytes([i]) for i in range(7)], "group_size:4")
    source = RecordShards(str(tmp_path), "video")
    assert [source[i].data[-1] for i in (6, 0, 3)] == [6, 0, 3]


def test_an_encoded_record_is_always_the_same(tmp_path):
    assert encode(entry(), MP4) == encode(entry(), MP4)
    features = tf_example_pb2.Example.FromString(encode(entry(fps=29.97), MP4)).features.feature
    assert features["media"].bytes_list.value == [MP4]
    assert features["frames"].int64_list.value == [3]
    assert features["fps"].float_list.value == pytest.approx([29.97])
    assert features["kind"].bytes_list.value == [b"video"]


def test_real_images_come_back(tmp_path):
    frame = np.random.default_rng(0).integers(256, size=(24, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    write_shard(tmp_path / "a.array_record", [file.getvalue()])
    np.testing.assert_array_equal(read_image(RecordShards(str(tmp_path), "image")[0]), frame)

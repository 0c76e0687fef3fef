"""Tar shards: what is found in them, in which order, and what damage does."""

import gzip
import io
import logging
import os
import pickle
import tarfile

import fsspec
import numpy as np
import pytest
from test_clips import numbered_video

from cvvae_jax.data import tar_shards
from cvvae_jax.data.tar_shards import TarShards, are_shards
from cvvae_jax.errors import UserError
from cvvae_jax.video_io import video
from cvvae_jax.video_io.images import write_image


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cvvae_jax" / "tar-index"


@pytest.fixture
def bucket():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def tar(members, tar_format=tarfile.GNU_FORMAT):
    """A tar of {name: bytes}, or of TarInfo objects without data."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tar_format) as shard:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def names(source):
    return [source.name(i).rpartition(".tar/")[2] for i in range(len(source))]


def contents(source):
    return [source[i].data for i in range(len(source))]


def test_members_are_the_files_they_were(tmp_path):
    clip = numbered_video(tmp_path / "a.mp4", 6)
    write_image(tmp_path / "b.png", np.full((8, 9, 3), 70, np.uint8))
    files = {"0/a.mp4": clip.read_bytes(), "0/b.png": (tmp_path / "b.png").read_bytes()}
    (tmp_path / "x.tar").write_bytes(tar(files))
    videos = TarShards(str(tmp_path / "x.tar"), "video")
    images = TarShards(str(tmp_path / "x.tar"), "image")
    assert (len(videos), len(images)) == (1, 1)
    assert videos.name(0) == str(videos[0]) == f"{tmp_path}/x.tar/0/a.mp4"
    np.testing.assert_array_equal(video.read_clip(videos[0], [1, 4]), video.read_clip(clip, [1, 4]))
    assert (video.read_clip(images[0], [0]) == 70).all()


def test_order_is_that_of_the_shards_and_then_of_their_members(tmp_path):
    for shard, members in {"b": "zya", "a": "cab", "c": ""}.items():
        data = tar({f"{name}.mp4": f"{shard}{name}".encode() for name in members})
        (tmp_path / f"{shard}.tar").write_bytes(data)
    source = TarShards(str(tmp_path), "video")
    assert contents(source) == [b"ac", b"aa", b"ab", b"bz", b"by", b"ba"]
    assert source.name(3) == f"{tmp_path}/b.tar/z.mp4"


def test_order_is_the_same_of_more_shards_than_are_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_shards, "_SHARDS_AT_ONCE", 2)
    for shard in "edcba":
        (tmp_path / f"{shard}.tar").write_bytes(tar({"x.mp4": shard.encode(), "y.mp4": b"1"}))
    assert contents(TarShards(str(tmp_path), "video"))[::2] == [b"a", b"b", b"c", b"d", b"e"]


def test_hidden_members_and_other_files_are_no_media(tmp_path):
    members = [
        "./a.MP4",
        "._a.mp4",
        "d/._a.mp4",
        "d/.git/b.mp4",
        "a.json",
        "dir.mp4/readme",
        "mp4",
        "b.jpg",
    ]
    (tmp_path / "x.tar").write_bytes(tar(dict.fromkeys(members, b"1")))
    assert names(TarShards(str(tmp_path), "video")) == ["a.MP4"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_members_without_data_of_their_own_are_skipped(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as shard:
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = kind, "b.mp4"
        shard.addfile(link)
        shard.addfile(tarfile.TarInfo("b.mp4"))
    assert names(TarShards(str(tmp_path), "video")) == ["b.mp4"]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_kept(tmp_path, tar_format):
    given = ["d" * 90 + "/" + "n" * 200 + ".mp4", "väter 子.mp4", "a.mp4"]
    data = tar({name: name.encode() for name in given}, tar_format)
    (tmp_path / "x.tar").write_bytes(data)
    source = TarShards(str(tmp_path), "video")
    assert names(source) == given
    assert contents(source) == [name.encode() for name in given]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("x-{00..02}.tar", ["00", "01", "02"]),
        ("x-{08..10}.tar", ["08", "09", "10"]),
        ("x-{8..8}.tar", ["8"]),
        ("x-{00,10}.tar", ["00", "10"]),
        ("x-{0{1..2},10}.tar", ["01", "02", "10"]),
        ("x-{0,1}0.tar", ["00", "10"]),
        ("x-{0*,10}.tar", ["00", "01", "02", "08", "09", "10"]),
        ("x-?.tar", ["8"]),
        ("x-{odd}.tar", ["{odd}"]),
        ("x-{1,2}.tar", ["{1,2}"]),
    ],
)
def test_patterns_name_shards(tmp_path, pattern, found):
    for name in ["00", "01", "02", "08", "09", "10", "8", "{odd}", "{1,2}"]:
        (tmp_path / f"x-{name}.tar").write_bytes(tar({"a.mp4": name.encode()}))
    assert contents(TarShards(f"{tmp_path}/{pattern}", "video")) == [x.encode() for x in found]


@pytest.mark.parametrize("place", ["memory://bucket", "memory://bucket/x-{0..1}.tar"])
def test_shards_in_a_bucket(bucket, place):
    for i in range(2):
        bucket.pipe(f"/bucket/x-{i}.tar", tar({f"{i}.mp4": b"ab" * (i + 1), "e.mp4": b""}))
    assert are_shards(place)
    source = TarShards(place, "video")
    assert contents(source) == [b"ab", b"", b"abab", b""]
    assert source.name(2) == str(source[2]) == "memory://bucket/x-1.tar/1.mp4"
    assert pickle.loads(pickle.dumps(source))[2].data == b"abab"


def test_no_server_is_asked_for_no_bytes(bucket, monkeypatch):
    bucket.pipe("/bucket/x.tar", tar({"a.mp4": b""}))
    monkeypatch.setattr(type(bucket), "cat_file", None)
    assert contents(TarShards("memory://bucket/x.tar", "video")) == [b""]


def test_globs_in_a_bucket(bucket):
    for i in range(3):
        bucket.pipe(f"/bucket/{i}.tar", tar({"a.mp4": str(i).encode()}))
    assert contents(TarShards("memory://bucket/[02].tar", "video")) == [b"0", b"2"]


def test_which_places_are_shards(tmp_path, bucket):
    for folder in ("shards", "mixed", "nested/deeper", "hidden", "other"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("shards/a.tar", "mixed/a.tar", "mixed/a.jpg", "nested/deeper/a.tar"):
        (tmp_path / name).touch()
    for name in ("shards/a.json", "hidden/.a.tar", "other/a.txt"):
        (tmp_path / name).touch()
    bucket.pipe({"/bucket/s/a.tar": b"", "/bucket/m/a.tar": b"", "/bucket/m/a.gif": b""})
    assert are_shards(str(tmp_path / "shards")) and are_shards(f"{tmp_path}/shards/")
    assert are_shards("memory://bucket/s")
    for place in ("a.tar", "a-{0..9}.TAR", "*.tar", "s3://b/x.tar", "a.tar.gz", "a.tgz"):
        assert are_shards(place)
    for folder in ("mixed", "nested", "hidden", "other", "missing", "mixed/a.jpg"):
        assert not are_shards(str(tmp_path / folder))
    for place in ("memory://bucket/m", "memory://bucket/none", "memory://bucket/m/a.gif", "*.mp4"):
        assert not are_shards(place)


def test_another_process_reads_the_same(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar({"a.mp4": b"1", "b.mp4": b"22"}))
    sent = pickle.dumps(TarShards(str(tmp_path), "video"))
    (tmp_path / "cache").rename(tmp_path / "gone")
    assert contents(pickle.loads(sent)) == [b"1", b"22"]


def test_a_million_members_take_little_memory(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar({f"{i:06d}.mp4": b"" for i in range(2000)}))
    assert len(pickle.dumps(TarShards(str(tmp_path), "video"))) < 2000 * 36


def count_scans(monkeypatch):
    scanned, scan = [], tar_shards._scan
    monkeypatch.setattr(tar_shards, "_scan", lambda *args: scanned.append(args) or scan(*args))
    return scanned


@pytest.mark.parametrize("kinds", [("video", "video"), ("video", "image")])
def test_headers_are_read_once(tmp_path, monkeypatch, cache, kinds):
    (tmp_path / "x.tar").write_bytes(tar({"a.mp4": b"1", "b.jpg": b"2"}))
    scanned = count_scans(monkeypatch)
    monkeypatch.chdir(tmp_path)
    found = [
        names(TarShards(place, kind)) for place, kind in zip(["x.tar", "."], kinds, strict=True)
    ]
    assert found == [[{"video": "a.mp4", "image": "b.jpg"}[kind]] for kind in kinds]
    assert len(scanned) == 1 and [path.suffix for path in cache.iterdir()] == [".npz"]


@pytest.mark.parametrize("remote", [False, True])
def test_a_changed_shard_is_read_again(tmp_path, bucket, remote):
    place = "memory://bucket/x.tar" if remote else str(tmp_path / "x.tar")
    for member in ("a.mp4", "b.mp4"):
        with fsspec.open(place, "wb") as file:
            file.write(tar({member: b"1"}))
        if not remote:
            os.utime(place, ns=(0, ord(member[0])))
        assert names(TarShards(place, "video")) == [member]


@pytest.mark.parametrize("damage", [b"", b"nonsense", None], ids=["empty", "nonsense", "cut"])
def test_a_damaged_cache_is_not_used(tmp_path, cache, damage):
    (tmp_path / "x.tar").write_bytes(tar({"a.mp4": b"1", "b.mp4": b"22"}))
    TarShards(str(tmp_path), "video")
    (kept,) = cache.iterdir()
    sound = kept.read_bytes()
    kept.write_bytes(sound[: len(sound) // 2] if damage is None else damage)
    assert contents(TarShards(str(tmp_path), "video")) == [b"1", b"22"]
    assert kept.read_bytes() == sound


def test_a_cache_of_other_lengths_is_not_used(tmp_path, cache):
    (tmp_path / "x.tar").write_bytes(tar({"a.mp4": b"1", "b.mp4": b"22"}))
    TarShards(str(tmp_path), "video")
    (kept,) = cache.iterdir()
    arrays = dict(np.load(kept))
    np.savez(kept, **{**arrays, "starts": arrays["starts"][:1]})
    assert contents(TarShards(str(tmp_path), "video")) == [b"1", b"22"]


def test_an_unwritable_cache_is_no_error(tmp_path, cache):
    (tmp_path / "x.tar").write_bytes(tar({"a.mp4": b"1"}))
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"a file where the folder should be")
    assert contents(TarShards(str(tmp_path), "video")) == [b"1"]


def test_of_a_cut_off_shard_all_but_the_last_member_is_read(tmp_path, caplog):
    members = {f"{i}.mp4": bytes([i]) * 1000 for i in range(3)}
    (tmp_path / "x.tar").write_bytes(tar(members)[: 3 * 512 + 2 * 1024 + 100])
    for _ in range(2):  # the second run warns, too
        with caplog.at_level(logging.WARNING):
            source = TarShards(str(tmp_path), "video")
        assert "x.tar is damaged" in caplog.text
        caplog.clear()
    assert names(source) == list(members)
    assert [source[i].data for i in (0, 1)] == [members["0.mp4"], members["1.mp4"]]
    with pytest.raises(UserError, match=r"x\.tar/2\.mp4 cannot be read: its shard ends"):
        source[2]


@pytest.mark.parametrize("size", [2**60, -512])
def test_a_header_that_states_an_absurd_size_is_one_bad_record(tmp_path, size):
    absurd = bytearray(tarfile.TarInfo("b.mp4").tobuf())
    absurd[124:136] = size.to_bytes(12, "big", signed=True)
    absurd[124] = 0xFF if size < 0 else 0x80  # a number in binary
    absurd[148:156] = b" " * 8
    absurd[148:156] = b"%06o\0 " % sum(absurd)
    shard = tar({"a.mp4": b"1"})[:1024] + absurd + bytes(2048)
    (tmp_path / "x.tar").write_bytes(shard)
    source = TarShards(str(tmp_path), "video")
    assert source[0].data == b"1"
    with pytest.raises(UserError, match=r"b\.mp4 cannot be read: its shard ends before it"):
        source[1]


@pytest.mark.parametrize("rest", [b"x" * 512, b"x" * 100, bytes(100)], ids=["whole", "half", "0"])
def test_a_broken_header_ends_a_shard_with_a_warning(tmp_path, caplog, rest):
    (tmp_path / "x.tar").write_bytes(tar({"a.mp4": b"1", "b.mp4": b"2"})[:1024] + rest)
    with caplog.at_level(logging.WARNING):
        source = TarShards(str(tmp_path), "video")
    assert contents(source) == [b"1"]
    assert "x.tar is damaged; what lies behind is not used: no header at byte 1024" in caplog.text


def test_a_broken_shard_leaves_the_others(tmp_path, caplog):
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    (tmp_path / "b.tar").write_bytes(tar({"a.mp4": b"1"}))
    (tmp_path / "c.tar").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert contents(TarShards(str(tmp_path), "video")) == [b"1"]
    assert "a.tar is damaged" in caplog.text and "c.tar is damaged" in caplog.text


def test_a_sound_shard_gives_no_warning(tmp_path, caplog):
    (tmp_path / "a.tar").write_bytes(tar({"a.mp4": b"1"}))
    (tmp_path / "b.tar").write_bytes(tar({"a.mp4": b"1"})[:1024])  # without the zeros at its end
    with caplog.at_level(logging.WARNING):
        TarShards(str(tmp_path), "video")
    assert not caplog.records


@pytest.mark.parametrize("remote", [False, True])
def test_a_shard_that_shrank_since_is_a_bad_record(tmp_path, bucket, remote):
    place = "memory://bucket/x.tar" if remote else str(tmp_path / "x.tar")
    for length in (None, 700):
        with fsspec.open(place, "wb") as file:
            file.write(tar({"a.mp4": bytes(1000)})[:length])
        if length is None:
            source = TarShards(place, "video")
    with pytest.raises(UserError, match=r"x\.tar/a\.mp4 cannot be read: its shard ends before"):
        source[0]


def test_a_shard_that_vanished_is_a_bad_record(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar({"a.mp4": b"1"}))
    source = TarShards(str(tmp_path), "video")
    (tmp_path / "x.tar").unlink()
    with pytest.raises(UserError, match=r"x\.tar cannot be read: FileNotFoundError"):
        source[0]


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.zst", "x-{0..9}.tar.xz", "x.tar"])
def test_compressed_shards_are_refused(tmp_path, name):
    (tmp_path / "x.tar").write_bytes(gzip.compress(tar({"a.mp4": b"1"})))
    with pytest.raises(UserError, match=r"compressed, which allows no random access: unpack it"):
        TarShards(str(tmp_path / name), "video")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("x.tar", r"x\.tar holds no image: no member of its 1 tar shards ends in \.png, "),
        ("none.tar", r"none\.tar cannot be read: FileNotFoundError"),
        ("x-{0..1}.tar", r"x-0\.tar cannot be read: FileNotFoundError"),
        ("y*.tar", r"y\*\.tar names no tar shard\."),
        ("empty", r"empty names no tar shard\."),
    ],
)
def test_what_is_not_there_is_an_error(tmp_path, place, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.tar").write_bytes(tar({"a.mp4": b"1"}))
    with pytest.raises(UserError, match=message):
        TarShards(str(tmp_path / place), "image")

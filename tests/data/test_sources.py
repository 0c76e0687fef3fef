"""Places: what is found, in which order, what is held out and what is left out."""

import json
import os

import fsspec
import pytest

from cvvae_jax.data.files import FileList
from cvvae_jax.data.sources import held_out, open_source, open_sources, write_exclusions
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.media_types import Blob


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(source):
    return [source.name(i) for i in range(len(source))]


def found(folder, kind, place=None, **kwargs):
    """Names of a place's media, relative to the folder."""
    source = open_source(str(place or folder), kind, **kwargs)
    assert [str(source[i]) for i in range(len(source))] == names(source)
    return [name.removeprefix(f"{folder}/") for name in names(source)]


def test_files_are_found_recursively_in_order(tmp_path):
    fill(tmp_path, ["b.MP4", "a/z.mkv", "a/.hidden.mp4", "c.txt", "a/y.png", "d.mov", ".x/e.mp4"])
    (tmp_path / "folder.mp4").mkdir()
    assert found(tmp_path, "video") == ["a/z.mkv", "b.MP4", "d.mov"]
    assert found(tmp_path, "image") == ["a/y.png"]


def test_links_are_followed_and_loops_are_not(tmp_path):
    fill(tmp_path, ["root/a/x.mp4", "elsewhere/y.mp4"])
    (tmp_path / "root/a/loop").symlink_to(tmp_path / "root")
    (tmp_path / "root/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/dangling.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert found(tmp_path / "root", "video") == ["a/x.mp4", "b/y.mp4"]


def test_patterns_choose_files(tmp_path):
    fill(tmp_path, ["a/x.mp4", "a/b/y.mp4", "a/z.png", "c/w.mp4"])
    assert found(tmp_path, "video", tmp_path / "a/**/*.mp4") == ["a/b/y.mp4", "a/x.mp4"]
    assert found(tmp_path, "video", tmp_path / "*/?.mp4") == ["a/x.mp4", "c/w.mp4"]
    assert found(tmp_path, "video", tmp_path / "c/w.mp4") == ["c/w.mp4"]
    with pytest.raises(UserError, match=r"no image file: none ends in \.png, \.jpg"):
        open_source(str(tmp_path / "*.jpg"), "image")


def test_lists_name_files_relative_to_themselves(tmp_path):
    fill(tmp_path, ["x.mp4", "y z.mp4"])
    (tmp_path / "list.csv").write_text(
        f"caption,path\nfoo,y z.mp4\nbar,{tmp_path}/x.mp4\nb,i.png\n"
    )
    assert found(tmp_path, "video", tmp_path / "list.csv") == ["y z.mp4", "x.mp4"]
    rows = [{"path": "x.mp4"}, {"path": "missing.mp4", "n": 1}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert found(tmp_path, "video", tmp_path / "list.jsonl") == ["x.mp4", "missing.mp4"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file\nx.mp4\n", "row 1 names no file: it has no `path`"),
        ("path\nx.mp4\n\n", None),
        ("path\nx.png\n", "names no video file"),
        ("", "names no video file"),
    ],
)
def test_lists_without_paths_are_refused(tmp_path, text, says):
    (tmp_path / "list.csv").write_text(text)
    if says is None:
        assert len(open_source(str(tmp_path / "list.csv"), "video")) == 1
    else:
        with pytest.raises(UserError, match=says):
            open_source(str(tmp_path / "list.csv"), "video")


def test_damaged_lists_are_refused_by_name(tmp_path):
    (tmp_path / "list.jsonl").write_text('{"path": "x.mp4"}\n{"pa')
    with pytest.raises(UserError, match=r"list\.jsonl cannot be read: JSONDecodeError"):
        open_source(str(tmp_path / "list.jsonl"), "video")
    with pytest.raises(UserError, match=r"missing\.csv cannot be read: FileNotFoundError"):
        open_source(str(tmp_path / "missing.csv"), "video")


def test_buckets_are_read_like_folders():
    system = fsspec.filesystem("memory")
    for name in ("a/x.mp4", "a/b/y.mp4", "a/z.txt", "a/list.csv"):
        system.pipe_file(f"/bucket/{name}", b"path\nb/y.mp4\n")
    source = open_source("memory://bucket/a", "video")
    assert names(source) == ["memory://bucket/a/b/y.mp4", "memory://bucket/a/x.mp4"] or names(
        source
    ) == ["memory:///bucket/a/b/y.mp4", "memory:///bucket/a/x.mp4"]
    blob = source[0]
    assert isinstance(blob, Blob) and blob.data == b"path\nb/y.mp4\n"
    assert len(open_source("memory://bucket/a/*.mp4", "video")) == 1
    listed = open_source("memory://bucket/a/list.csv", "video")
    assert names(listed) == ["memory://bucket/a/b/y.mp4"] and listed[0].data == blob.data
    system.rm("/bucket/a/b/y.mp4")
    with pytest.raises(UserError, match=r"y\.mp4 cannot be read: FileNotFoundError"):
        source[0]
    system.rm("/bucket", recursive=True)


@pytest.mark.parametrize("count", [2, 5, 10, 400])
def test_about_a_tenth_is_held_out_and_of_few_files_at_least_one(tmp_path, count):
    """The hash is uniform: of 400 files 40, give or take three standard deviations of 6."""
    fill(tmp_path, [f"{i:03}.jpg" for i in range(count)])
    train, unseen = (found(tmp_path, "image", split=s) for s in ("train", "eval"))
    assert len(train) and len(unseen)
    assert count < 400 or 22 <= len(unseen) <= 58
    assert sorted(train + unseen) == found(tmp_path, "image", split="all")


def test_files_that_come_or_go_move_no_others(tmp_path):
    names = [f"{i:03}.jpg" for i in range(0, 200, 2)]
    fill(tmp_path, names)
    before = found(tmp_path, "image", split="eval")
    more = [f"{i:03}.jpg" for i in range(1, 75, 2)]
    fill(tmp_path, more)
    assert [name for name in found(tmp_path, "image", split="eval") if name in names] == before
    for name in names[:33]:
        (tmp_path / name).unlink()
    kept = [name for name in before if name not in names[:33]]
    assert [name for name in found(tmp_path, "image", split="eval") if name in names] == kept


def test_side_of_a_file_does_not_depend_on_where_its_place_lies(tmp_path):
    held = []
    for place in ("a", "b/c"):
        fill(tmp_path / place, [f"x/{i:03}.jpg" for i in range(60)])
        held.append(found(tmp_path / place, "image", split="eval"))
        pattern = str(tmp_path / place / "**/*.jpg")
        by_pattern = open_source(pattern, "image", split="eval")
        assert [os.path.relpath(n, tmp_path / place) for n in names(by_pattern)] == held[-1]
    assert held[0] == held[1]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_known_sides_stay_and_one_is_left_for_either(count):
    """Whatever the hash says of the files that came later."""
    keys = [f"{i}.mp4" for i in range(count)]
    first = held_out(keys)
    assert any(first) == (count > 1) and not all(first)
    known = dict(zip(keys, first, strict=True))
    more = [f"new/{i}.mp4" for i in range(20)]
    assert held_out(more + keys, known)[20:] == first
    known = dict.fromkeys(keys, True)
    assert held_out([*keys, "new.mp4"], known) == [*[True] * count, False]
    known = dict.fromkeys(keys, False)
    assert held_out([*keys, "new.mp4"], known) == [*[False] * count, True]


def test_single_file_is_trained_on_and_leaves_nothing_unseen(tmp_path):
    fill(tmp_path, ["only.mp4"])
    assert found(tmp_path, "video", split="train") == ["only.mp4"]
    with pytest.raises(UserError, match=r"only\.mp4.*--data\.eval-videos"):
        open_source(str(tmp_path), "video", split="eval")


def test_folder_without_files_is_an_error(tmp_path):
    fill(tmp_path, ["notes.txt"])
    with pytest.raises(UserError, match=r"no video file: none ends in \.mp4, \.mkv"):
        open_source(str(tmp_path), "video")
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        open_source(str(tmp_path / "nowhere"), "image")


def test_excluding_moves_no_file_from_training_to_evaluation(tmp_path):
    fill(tmp_path, [f"{i:02}.jpg" for i in range(40)])
    before = {split: found(tmp_path, "image", split=split) for split in ("train", "eval")}
    bad = [before["train"][3], before["eval"][0]]
    write_exclusions(tmp_path / "bad.txt", {f"{tmp_path}/{name}": "" for name in bad})
    train, unseen = (
        found(tmp_path, "image", split=split, exclude=str(tmp_path / "bad.txt"))
        for split in ("train", "eval")
    )
    assert unseen == before["eval"][1:]
    assert train == [name for name in before["train"] if name != bad[0]]


@pytest.mark.parametrize(
    "name", ["a\nb.mp4", "a\tb.mp4", "a\r.mp4", "a\x1b[2J.mp4", 'a"\n\udcff.mp4']
)
def test_a_name_is_one_line_of_the_list_whatever_it_holds(tmp_path, name):
    for each in (name, "x.mp4"):
        (tmp_path / each).touch()
    write_exclusions(tmp_path / "bad.txt", {f"{tmp_path}/{name}": "broken"})
    written = (tmp_path / "bad.txt").read_bytes()
    assert written.count(b"\n") == 1 == len(written.splitlines())
    assert b"\x1b" not in written
    assert found(tmp_path, "video", exclude=str(tmp_path / "bad.txt")) == ["x.mp4"]


def test_a_reason_shows_control_characters_as_escapes(tmp_path):
    write_exclusions(tmp_path / "bad.txt", {"/x.mp4": "a\x1b[2J.mp4\n\tcaf\udce9 is\u202e broken"})
    written = (tmp_path / "bad.txt").read_bytes()
    assert written == b"/x.mp4\ta\\x1b[2J.mp4 caf\\udce9 is\\u202e broken\n"


def test_names_that_are_no_utf8_can_be_excluded(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    fill(tmp_path, [name, "x.mp4"])
    write_exclusions(tmp_path / "bad.txt", {f"{tmp_path}/{name}": "broken"})
    assert found(tmp_path, "video", exclude=str(tmp_path / "bad.txt")) == ["x.mp4"]


def test_only_a_place_without_a_kind_counts_as_one(tmp_path, monkeypatch):
    fill(tmp_path, ["x.mp4", "y.png"])
    assert set(open_sources(str(tmp_path))) == {"video", "image"}
    os.remove(tmp_path / "x.mp4")
    assert set(open_sources(str(tmp_path))) == {"image"}
    failures = [UserError("timeout")]

    def out_of_reach_at_first(place):
        if failures:
            raise failures.pop()
        return [str(tmp_path / "y.png")]

    monkeypatch.setattr("cvvae_jax.data.files.find", out_of_reach_at_first)
    with pytest.raises(UserError, match="timeout"):
        open_sources(str(tmp_path))


def test_a_remote_file_is_asked_for_again(monkeypatch):
    system = fsspec.filesystem("memory")
    system.pipe_file("/again/x.mp4", b"content")
    source = open_source("memory://again", "video")
    failures = [OSError("reset"), TimeoutError()]
    cat_file = type(system).cat_file

    def unreliable(*args, **kwargs):
        if failures:
            raise failures.pop()
        return cat_file(*args, **kwargs)

    monkeypatch.setattr(type(system), "cat_file", unreliable)
    monkeypatch.setattr("cvvae_jax.data.files._WAITS", (0, 0))
    assert source[0].data == b"content" and not failures
    failures += [OSError("reset")] * 3
    with pytest.raises(UserError, match=r"x\.mp4 cannot be read: OSError: reset"):
        source[0]
    system.rm("/again", recursive=True)


def test_excluded_files_are_left_out_however_their_folder_is_called(tmp_path, monkeypatch):
    fill(tmp_path, ["data/x.mp4", "data/y\u00e9.mp4", "data/z.mp4"])
    excluded = tmp_path / "bad.txt"
    monkeypatch.chdir(tmp_path)
    write_exclusions(excluded, {"data/y\u00e9.mp4": "it is\nbroken"})
    assert found(tmp_path, "video", exclude=str(excluded)) == ["data/x.mp4", "data/z.mp4"]
    assert names(open_source("data", "video", exclude="bad.txt")) == ["data/x.mp4", "data/z.mp4"]
    write_exclusions(excluded, {f"data/{n}.mp4": "" for n in ("x", "y\u00e9", "z")})
    with pytest.raises(UserError, match="all 3 video files of it are excluded"):
        open_source("data", "video", exclude=str(excluded))
    with pytest.raises(UserError, match=r"none\.txt, the list of exclusions, cannot be read"):
        open_source("data", "video", exclude="none.txt")


@pytest.mark.parametrize(
    "path",
    [
        "zip://a.mp4::http://example.org/a.zip",
        "file:///etc/a.mp4",
        "simplecache::s3://bucket/a.mp4",
        "s3://bucket/a.zip::zip://a.mp4",
        "python://a.mp4",
        "http://169.254.169.254/a.mp4",
        "S3://bucket/a.mp4",
        "gs://bucket/a.mp4::file:///b.mp4",
        "memory://a.mp4",
    ],
)
def test_lists_name_no_other_addresses_than_buckets(tmp_path, path):
    place = tmp_path / "list.jsonl"
    place.write_text(json.dumps({"path": "a.mp4"}) + "\n" + json.dumps({"path": path}) + "\n")
    with pytest.raises(UserError, match=r"list\.jsonl: row 2 names "):
        open_source(str(place), "video")


def test_lists_name_buckets_and_where_they_lie(tmp_path):
    place = tmp_path / "list.csv"
    place.write_text("path\ngs://bucket/a.mp4\ns3://bucket/b.mp4\n/c.mp4\nd::e.mp4\n")
    names = [FileList(str(place), "video").name(i) for i in range(4)]
    assert names == ["gs://bucket/a.mp4", "s3://bucket/b.mp4", "/c.mp4", f"{tmp_path}/d::e.mp4"]
    with fsspec.open("memory://lists/list.csv", "wt") as file:
        file.write("path\na.mp4\nmemory://b.mp4\n")
    source = FileList("memory://lists/list.csv", "video")
    assert [source.name(i) for i in range(2)] == ["memory://lists/a.mp4", "memory://b.mp4"]

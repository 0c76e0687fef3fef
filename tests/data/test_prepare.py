"""`data prepare`: what is stored, that it is always the same, and what is refused."""

import dataclasses
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from prepare_media import contents, pictures, write_corpus, write_video
from tensorflow_datasets.proto import tf_example_pb2

from cvvae_jax.data.prepare import run, source_files
from cvvae_jax.data.prepare.options import PrepareConfig, PrepareOptions
from cvvae_jax.data.prepare.run import prepare
from cvvae_jax.data.prepare.shards import name_and_version
from cvvae_jax.data.prepare.source_files import File, cut
from cvvae_jax.data.record_shards import open_shard
from cvvae_jax.data.sources import open_source, open_sources
from cvvae_jax.errors import UserError
from cvvae_jax.resumable.target import Target
from cvvae_jax.video_io.frame_index import frame_times
from cvvae_jax.video_io.video import read_clip

SMALL = PrepareConfig(short_side=32)
REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = """
import sys, time
sys.path.insert(0, {repository!r})
from cvvae_jax.errors import UserError
from cvvae_jax.data.prepare import run
from cvvae_jax.data.prepare.options import PrepareConfig, PrepareOptions
from cvvae_jax.data.prepare.run import prepare
if __name__ == "__main__":
    if {endless}:
        run._complete = lambda *_: time.sleep(600)
    try:
        print(prepare(PrepareOptions({source!r}, {target!r}, PrepareConfig(short_side={side}))))
    except (UserError, KeyboardInterrupt) as error:
        print(error)
        sys.exit(2)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("prepare") / "corpus")


@pytest.fixture(scope="module")
def prepared(corpus):
    """The corpus, prepared in DATA_DIR/NAME/VERSION."""
    target = corpus.parent / "data/small/1.0.0"
    summary = prepare(PrepareOptions(str(corpus), str(target), SMALL, workers=2))
    assert not summary.was_complete
    return target


def index(target):
    return [json.loads(line) for line in (target / "index.jsonl").read_text().splitlines()]


def begin(corpus, target, side=32, *, endless=False):
    """A process of its own group that prepares a corpus; if it is endless, its end does not come
    before its signal does."""
    script = target.parent / f"{target.name}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    values = {"repository": str(REPOSITORY), "source": str(corpus), "target": str(target)}
    script.write_text(COMMAND.format(**values, side=side, endless=endless))
    return subprocess.Popen(
        [sys.executable, script], start_new_session=True, stdout=subprocess.PIPE, text=True
    )


def begin_long(folder):
    """A process that works for some seconds on a single video, and is in the midst of it."""
    write_video(folder / "in/a.mp4", pictures(600, 480, 640))
    process = begin(folder / "in", folder / "out", side=480)
    deadline = time.monotonic() + 300
    while not list((folder / "out").glob(".prepare/scratch/*/pieces/.*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    return process


def run_with_kills(corpus, target, kills, seconds, side=32):
    """The processes of a run that is killed several times, then left alone."""
    rng = random.Random(0)
    for _ in range(kills):
        process = begin(corpus, target, side)
        time.sleep(rng.uniform(*seconds))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process = begin(corpus, target, side)
    assert process.wait() == 0


def shards_in(target):
    return len(list(target.glob("*.array_record*")))


def wait_for_shards(target, count, process):
    while shards_in(target) < count:
        assert process.poll() is None
        time.sleep(0.01)


def wait_for_end(group):
    """Until no process of a group is left."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a worker goes on")


def test_what_is_stored(corpus, prepared):
    rows = index(prepared)
    assert [row["name"] for row in rows] == [
        *(f"v/{n}.mp4" for n in range(6)),
        *(f"i/{n}.png" for n in range(4)),
    ]
    assert [row["frames"] for row in rows] == [*range(20, 26), 1, 1, 1, 1]
    assert {(r["height"], r["width"]) for r in rows if r["kind"] == "video"} == {(32, 42)}
    assert {(r["height"], r["width"]) for r in rows if r["kind"] == "image"} == {(32, 48)}
    assert {row["fps"] for row in rows if row["kind"] == "video"} == {24.0}
    for kind in ("video", "image"):
        source = open_source(str(prepared), kind)
        own = [row for row in rows if row["kind"] == kind]
        assert len(source) == len(own)
        for number, row in enumerate(own):
            times = frame_times(source[number])
            clip = read_clip(source[number], range(row["frames"]))
            assert clip.shape == (row["frames"], row["height"], row["width"], 3)
            np.testing.assert_allclose(times, np.arange(row["frames"]) / row["fps"], atol=1e-3)
            assert source.name(number).endswith(f"{row['shard']}#{row['position']}")


def test_pictures_are_those_of_the_original(corpus, prepared):
    original = read_clip(corpus / "v/3.mp4", range(23), short_side=32)[:, :, :42]
    stored = read_clip(open_source(str(prepared), "video")[3], range(23))
    error = np.abs(original.astype(float) - stored).mean(axis=(1, 2, 3))
    assert error.max() < 3
    assert np.abs(original[1:].astype(float) - stored[:-1]).mean() > 2 * error.mean()


def test_what_is_left_out_is_listed(corpus, prepared):
    lines = dict(line.split("\t") for line in (prepared / "bad.tsv").read_text().splitlines())
    assert set(lines) == {
        f"{corpus}/{n}" for n in ("v/copy.mp4", "v/cut.mp4", "i/copy.png", "i/bad.jpg")
    }
    assert lines[f"{corpus}/v/copy.mp4"] == f"duplicate of {corpus}/v/1.mp4"
    assert lines[f"{corpus}/i/copy.png"] == f"duplicate of {corpus}/i/1.png"
    assert "cut.mp4 cannot be read as a video" in lines[f"{corpus}/v/cut.mp4"]
    assert "bad.jpg cannot be read as an image" in lines[f"{corpus}/i/bad.jpg"]
    kept = open_source(str(corpus), "video", exclude=str(prepared / "bad.tsv"))
    assert len(kept) == 6


def test_shards_of_several_records(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("cvvae_jax.data.prepare.source_files._SHARDS_AT_LEAST", 2)
    prepare(PrepareOptions(str(corpus), str(tmp_path / "out"), SMALL))
    rows = index(tmp_path / "out")
    assert len({row["shard"] for row in rows}) < 5
    for row in rows:
        record = open_shard(str(tmp_path / "out" / row["shard"])).read([row["position"]])[0]
        features = tf_example_pb2.Example.FromString(record).features.feature
        assert features["name"].bytes_list.value == [row["name"].encode()]
    names = sorted(path.name for path in (tmp_path / "out").glob("*.array_record*"))
    split = json.loads((tmp_path / "out/dataset_info.json").read_text())["splits"][0]
    counts = [sum(row["shard"] == name for row in rows) for name in names]
    assert split["shardLengths"] == [str(count) for count in counts]
    sizes = [(tmp_path / "out" / name).stat().st_size for name in names]
    assert split["numBytes"] == str(sum(sizes))


def test_nothing_else_is_left_behind(prepared):
    names = {path.name for path in prepared.iterdir()}
    shards = {row["shard"] for row in index(prepared)}
    described = {"bad.tsv", "dataset_info.json", "features.json", "index.jsonl", "prepare.json"}
    described.add("SHA256SUMS")
    assert names - described >= shards
    assert all(name.startswith("small-train.array_record-") for name in names - described)


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(corpus, prepared, tmp_path):
    target = tmp_path / "data/small/1.0.0"
    for count in (2, 6):
        process = begin(corpus, target, endless=True)
        wait_for_shards(target, count, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (target / "dataset_info.json").exists()
    made = {path.name: path.stat().st_mtime_ns for path in target.glob("*.array_record*")}
    parts = {path.stem for path in (target / ".prepare/parts").iterdir()}
    assert begin(corpus, target).wait() == 0
    assert contents(target) == contents(prepared)
    assert parts
    assert all((target / name).stat().st_mtime_ns == made[name] for name in parts)


def test_the_number_of_workers_does_not_matter(corpus, prepared, tmp_path):
    target = tmp_path / "data/small/1.0.0"
    prepare(PrepareOptions(str(corpus), str(target), SMALL, workers=1))
    assert contents(target) == contents(prepared)


@pytest.mark.slow
@pytest.mark.skipif("CVVAE_CORPUS" not in os.environ, reason="CVVAE_CORPUS names no folder")
def test_a_run_over_real_media_that_was_killed_five_times(tmp_path):
    corpus = os.environ["CVVAE_CORPUS"]
    whole, killed = tmp_path / "a/corpus/1.0.0", tmp_path / "b/corpus/1.0.0"
    assert begin(corpus, whole, 144).wait() == 0
    run_with_kills(corpus, killed, 5, (2, 25), 144)
    assert contents(killed) == contents(whole)
    assert not (killed / ".prepare").exists()


def test_sigterm_ends_all_and_says_how_to_go_on(corpus, prepared, tmp_path):
    target = tmp_path / "data/small/1.0.0"
    process = begin(corpus, target, endless=True)
    wait_for_shards(target, 1, process)
    process.terminate()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert output == "What is finished stays, and the same command goes on.\n"
    wait_for_end(process.pid)
    assert begin(corpus, target).wait() == 0
    assert contents(target) == contents(prepared)


def test_sigterm_does_not_wait_for_a_long_video(tmp_path):
    process = begin_long(tmp_path)
    process.terminate()
    assert process.wait(timeout=300) == 2
    wait_for_end(process.pid)
    assert not shards_in(tmp_path / "out")
    assert not (tmp_path / "out/.prepare/scratch").exists()


def test_workers_end_with_the_process_that_was_killed(corpus, tmp_path):
    process = begin(corpus, tmp_path / "t/out", endless=True)
    wait_for_shards(tmp_path / "t/out", 1, process)
    process.kill()
    process.wait()
    wait_for_end(process.pid)


def test_what_is_complete_is_left_alone(corpus, prepared):
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    summary = prepare(PrepareOptions(str(corpus), str(prepared), SMALL))
    assert summary.was_complete
    assert (summary.records, summary.frames, summary.left_out) == (10, 139, 4)
    assert {path: path.stat().st_mtime_ns for path in prepared.iterdir()} == before


def test_other_settings_are_refused(corpus, prepared, tmp_path):
    with pytest.raises(UserError, match=r"was begun with gop 16, not 8\. Give the same settings"):
        prepare(PrepareOptions(str(corpus), str(prepared), dataclasses.replace(SMALL, gop=8)))
    with pytest.raises(UserError, match=r"was begun with source .*corpus, not"):
        prepare(PrepareOptions(str(tmp_path), str(prepared), SMALL))


def test_a_source_that_changed_is_refused(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "out"
    for number in range(3):
        write_video(source / f"{number}.mp4", pictures(4, seed=number))
    options = PrepareOptions(str(source), str(target), SMALL, workers=1)
    with monkeypatch.context() as patched:
        patched.setattr(run, "_complete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
            prepare(options)
    part = next((target / ".prepare/parts").iterdir())
    part.unlink()
    changed = source / f"{int(part.name.split('-')[2])}.mp4"
    write_video(changed, pictures(5, seed=9))
    with pytest.raises(UserError, match=f"{changed.name} changed since .*out was begun"):
        prepare(options)
    write_video(source / "new.mp4", pictures(5, seed=9))
    with pytest.raises(UserError, match="some were added, removed or renamed"):
        prepare(options)


def test_a_source_that_changes_while_it_is_listed_is_refused(tmp_path, monkeypatch):
    """Workers list it for themselves: no file may fall between two lists."""
    source, target = tmp_path / "source", tmp_path / "out"
    for number in range(3):
        write_video(source / f"{number}.mp4", pictures(5, seed=number))
    options = PrepareOptions(str(source), str(target), SMALL, workers=1)
    hash_jobs = run.source_files.hash_jobs

    def changing(*arguments):
        write_video(source / "-.mp4", pictures(5, seed=9))
        return hash_jobs(*arguments)

    monkeypatch.setattr(run.source_files, "hash_jobs", changing)
    with pytest.raises(UserError, match="source changed while they were read; begin again"):
        prepare(options)
    monkeypatch.undo()
    assert prepare(options).records == 4


def test_two_processes_at_once_are_refused(corpus, tmp_path):
    (tmp_path / "out/.prepare").mkdir(parents=True)
    with open(tmp_path / "out/.prepare/lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being prepared by another process"):
            prepare(PrepareOptions(str(corpus), str(tmp_path / "out"), SMALL))


def test_a_folder_with_other_files_is_refused(corpus, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"holds other files, such as mine\.txt; name a new"):
        prepare(PrepareOptions(str(corpus), str(tmp_path), SMALL))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match="is a file; name a folder"):
        prepare(PrepareOptions(str(corpus), str(tmp_path / "mine.txt"), SMALL))


def test_a_place_without_media_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no video file"):
        prepare(PrepareOptions(str(tmp_path / "empty"), str(tmp_path / "out"), SMALL))
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty/a.mp4").write_bytes(b"x")
    with pytest.raises(UserError, match=r"None of the 1 files can be stored; the first: .*a\.mp4"):
        prepare(PrepareOptions(str(tmp_path / "empty"), str(tmp_path / "out"), SMALL))


def test_a_worker_that_is_killed_is_told_of(tmp_path):
    process = begin_long(tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "was killed, maybe for want of memory, while it was at out-train.array_" in output
    assert "00000-of-00001 (" in output and "a.mp4). What is finished stays" in output


def test_an_address_can_be_written_to(corpus, prepared, tmp_path):
    prepare(PrepareOptions(str(corpus), f"file://{tmp_path}/data/small/1.0.0", SMALL))
    assert contents(tmp_path / "data/small/1.0.0") == contents(prepared)


READ_BY_NAME = """
import sys
import tensorflow_datasets as tfds
data_dir = sys.argv[1]
rows = []
for source in (
    tfds.builder_from_directory(f"{data_dir}/small/1.0.0").as_data_source("train"),
    tfds.builder("small", data_dir=data_dir).as_data_source("train"),
    tfds.data_source("small", data_dir=data_dir, split="train"),
):
    rows.append([(r["name"], len(r["media"]), int(r["frames"]), float(r["fps"])) for r in source])
assert rows[0] == rows[1] == rows[2]
assert "tensorflow" not in sys.modules
print(repr(rows[0]))
"""


def test_tfds_finds_it_by_name_without_tensorflow(prepared):
    output = subprocess.run(
        [sys.executable, "-c", READ_BY_NAME, prepared.parents[1]],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = eval(output.splitlines()[-1])
    assert [(name.decode(), frames, fps) for name, _, frames, fps in rows] == [
        (row["name"], row["frames"], row["fps"]) for row in index(prepared)
    ]
    videos = open_source(str(prepared), "video")
    assert [size for _, size, _, _ in rows[:6]] == [len(videos[i].data) for i in range(6)]


def test_jobs_of_several_files_find_what_jobs_of_one_do(corpus, tmp_path, monkeypatch):
    sources = open_sources(str(corpus))
    count = sum(map(len, sources.values()))
    found = []
    for most in (1000, 3):
        monkeypatch.setattr(source_files, "_HASH_JOBS", most)
        target = Target(str(tmp_path / str(most)))
        target.make(source_files.HASHES)
        jobs = source_files.hash_jobs(sources, str(corpus), None, target)
        assert sum(map(len, jobs)) == count and max(map(len, jobs)) == max(1, count // most)
        for job in jobs:
            job.run()
        found.append((source_files.collect(jobs), source_files.hashed_digest(jobs)))
    assert found[0] == found[1] and found[0][1] == source_files.digest(sources)


def test_shards_are_cut_by_the_size_of_the_originals():
    sizes = [5, 5, 20, 1, 1, 30, 3]
    kinds = ["video"] * 5 + ["image"] * 2
    files = [
        File(kind, i, str(i), str(i), size * 2**20)
        for i, (kind, size) in enumerate(zip(kinds, sizes, strict=True))
    ]
    assert [[f.number for f in g] for g in cut(files * 10, 10.0)][:5] == [
        *([0, 1], [2], [3, 4], [5], [6])
    ]
    assert [[f.number for f in g] for g in cut(files, 1000.0)] == [[0], [1], [2], [3, 4], [5], [6]]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/data/clips/2.0.1", ("clips", "2.0.1")),
        ("/data/My Clips", ("my_clips", "1.0.0")),
        ("gs://bucket/9lives", ("data_9lives", "1.0.0")),
    ],
)
def test_names_of_data_sets(place, expected):
    assert name_and_version(place) == expected


@pytest.mark.parametrize(
    "changes", [{"short_side": 8}, {"max_fps": 0.0}, {"crf": 52}, {"gop": 0}, {"max_seconds": 0.5}]
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(UserError, match=f"--{next(iter(changes)).replace('_', '-')} must be"):
        PrepareConfig(**changes)

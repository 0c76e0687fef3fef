"""Folders of latents: every record once, whatever comes between; and what is refused."""

import dataclasses
import fcntl
import json
from pathlib import Path

import fsspec
import pytest
from latents_of import PlainEncoder, assert_same_records, model, records, write, write_sources
from PIL import Image
from prepare_media import contents, pictures, write_video

from cvvae_jax.errors import UserError
from cvvae_jax.latents import dataset_folder as folders
from cvvae_jax.latents.dataset_options import LatentsConfig
from cvvae_jax.latents.dataset_write import write_latents
from cvvae_jax.resumable.share import Share


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


@pytest.mark.parametrize("sample", [False, True])
def test_processes_and_interrupts_change_no_byte(corpus, tmp_path, sample):
    """Three processes, of which the last begins first; and some that are interrupted at
    the first encoding, at the second, and so on, another number of processes each time."""
    settings = {"sample": sample, "clip_frames": 5}
    write(corpus, tmp_path / "alone", PlainEncoder(sample=sample), **settings)
    expected = contents(tmp_path / "alone")
    for index in (2, 0, 1):
        done = write(
            corpus,
            tmp_path / "three",
            PlainEncoder(sample=sample),
            share=(index, 3),
            **settings,
        )
        assert (done.statistics is None) == (index != 1)
    assert contents(tmp_path / "three") == expected
    for number in range(1, 100):
        encoder = PlainEncoder(sample=sample, fails_at=number)
        count = 1 + number % 3
        try:
            done = write(
                corpus, tmp_path / "cut", encoder, share=(number // 3 % count, count), **settings
            )
            if done.statistics is not None:
                break
        except KeyboardInterrupt as interrupt:
            assert "the same command goes on" in str(interrupt)
    assert number > 10 and contents(tmp_path / "cut") == expected


def test_a_finished_shard_is_not_encoded_again(corpus, tmp_path):
    """The third shard's first encoding is interrupted; two whole videos come before it."""
    encoders = [PlainEncoder(fails_at=5), PlainEncoder()]
    with pytest.raises(KeyboardInterrupt):
        write(corpus, tmp_path / "out", encoders[0])
    write(corpus, tmp_path / "out", encoders[1])
    assert encoders[1].calls == 7 - 4


def test_a_shard_that_was_removed_is_made_again(corpus, whole, tmp_path):
    write(corpus, tmp_path / "out", share=(0, 2))
    (removed,) = tmp_path.glob("out/*000002-of*")
    removed.unlink()
    write(corpus, tmp_path / "out", share=(0, 2))
    write(corpus, tmp_path / "out", share=(1, 2))
    assert contents(tmp_path / "out").keys() == contents(whole).keys()
    assert_same_records(records(tmp_path / "out"), records(whole))


def test_a_complete_set_is_left_as_it_is(whole):
    before = contents(whole)
    encoder = PlainEncoder(fails_at=1)
    done = write(whole.parent / "corpus", whole, encoder)
    assert done.was_complete and done.statistics["records"] == 7
    assert contents(whole) == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"weights": "1" * 64}, "with weights 000"),
        ({"chunk_frames": 8}, "with chunk-frames 16, not 8"),
        ({"size": 8}, "with size None, not 8"),
        ({"store": "float16"}, "with store float32, not float16"),
        ({"items_per_shard": 3}, "with items-per-shard 2, not 3"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_another_model_or_setting_is_named(corpus, tmp_path, changed, said, finished):
    def run(encoder=None, **changed):
        config = LatentsConfig(
            **{"items_per_shard": 2}
            | {k: v for k, v in changed.items() if k not in ("weights", "chunk_frames")}
        )
        known = {k: v for k, v in changed.items() if k in ("weights", "chunk_frames")}
        return write_latents(
            str(corpus),
            str(tmp_path / "out"),
            config=config,
            model=model(encoder, **{"chunk_frames": 16} | known),
            share=Share(),
            exclude=None,
            readers=1,
        )

    if finished:
        run()
    else:
        with pytest.raises(KeyboardInterrupt):
            run(PlainEncoder(fails_at=1))
    before = contents_of_all(tmp_path / "out")
    with pytest.raises(UserError, match=said):
        run(**changed)
    assert contents_of_all(tmp_path / "out") == before


def contents_of_all(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_a_changed_source_is_refused_and_a_moved_one_is_not(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"a/{number}.mp4", pictures(5, seed=number))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", tmp_path / "out", PlainEncoder(fails_at=3))
    (tmp_path / "a").rename(tmp_path / "b")
    write_video(tmp_path / "b/3.mp4", pictures(5, seed=3))
    with pytest.raises(UserError, match="some were added, removed or renamed"):
        write(tmp_path / "b", tmp_path / "out")
    (tmp_path / "b/3.mp4").unlink()
    write(tmp_path / "b", tmp_path / "out")
    assert [record["name"] for record in records(tmp_path / "out")] == ["0.mp4", "1.mp4", "2.mp4"]


def test_a_set_of_nothing_but_bad_files_is_an_error_and_can_be_repaired(tmp_path):
    write_video(tmp_path / "in/a.mp4", pictures(5, 6, 64))
    with pytest.raises(UserError, match=r"None of the 1 files .*64x6 pixels.*8x8"):
        write(tmp_path / "in", tmp_path / "out")
    write_video(tmp_path / "in/a.mp4", pictures(5))
    assert write(tmp_path / "in", tmp_path / "out").statistics["records"] == 1


def test_a_shard_of_many_bad_files_is_an_error(tmp_path):
    """A disk that went away must not make an empty set."""
    (tmp_path / "in").mkdir()
    for number in range(20):
        (tmp_path / f"in/{number}.png").write_bytes(b"no image")
    Image.fromarray(pictures(1)[0]).save(tmp_path / "in/zz.png")
    with pytest.raises(UserError, match="None of 20 files in a row"):
        write(tmp_path / "in", tmp_path / "out", items_per_shard=20)
    write(tmp_path / "in", tmp_path / "other", items_per_shard=21)


def test_two_processes_of_one_number_are_an_error(corpus, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(corpus, tmp_path / "out", PlainEncoder(fails_at=1))
    with open(tmp_path / "out/.latents/lock-0-of-1", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="process 0 of 1 is at work"):
            write(corpus, tmp_path / "out")
    for index, count in ((-1, 1), (2, 2)):
        with pytest.raises(UserError, match="process-index must be"):
            Share(index, count)


def test_processes_may_complete_a_set_at_once(corpus, whole, tmp_path, monkeypatch):
    """One is just about to read the parts that the other one removes."""
    complete = folders.LatentsFolder._complete

    def slow(folder):
        monkeypatch.setattr(folders.LatentsFolder, "_complete", complete)
        other = folders.LatentsFolder(folder.target.place, process="other")
        other.begin(folder._settings)
        other.complete()
        complete(folder)

    monkeypatch.setattr(folders.LatentsFolder, "_complete", slow)
    assert write(corpus, tmp_path / "out").statistics["records"] == 7
    assert contents(tmp_path / "out") == contents(whole)


def test_shards_of_other_settings_are_found_at_the_end(corpus, tmp_path):
    """Two processes that begin at the same moment may both find an empty folder."""
    target = tmp_path / "out"
    write(corpus, target, share=(0, 2))
    begun = json.loads((target / "latents.json").read_text())
    (target / "latents.json").write_text(json.dumps(begun | {"seed": 3}))
    with pytest.raises(UserError, match=r"000000-of-000005\S* with other settings"):
        write(corpus, target, share=(1, 2), seed=3)


def test_other_files_are_not_written_beside(corpus, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"holds other files, such as mine\.txt"):
        write(corpus, tmp_path)


def test_a_model_that_cannot_be_loaded_leaves_nothing(corpus, tmp_path):
    def fail():
        raise UserError("no model")

    with pytest.raises(UserError, match="no model"):
        write_latents(
            str(corpus),
            str(tmp_path / "out"),
            config=LatentsConfig(),
            model=dataclasses.replace(model(), load=fail),
            share=Share(),
            exclude=None,
            readers=1,
        )
    assert not (tmp_path / "out").exists()


def test_a_remote_target_gets_the_same_files(corpus, whole):
    write(corpus, "memory://latents-test/out", share=(1, 2))
    write(corpus, "memory://latents-test/out", share=(0, 2))
    system = fsspec.filesystem("memory")
    try:
        found = {
            Path(path).name: system.cat_file(path) for path in system.find("/latents-test/out")
        }
        assert found == contents(whole)
    finally:
        system.rm("/latents-test", recursive=True)

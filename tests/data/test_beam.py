"""`data prepare` as a Beam pipeline: the same bytes, and errors in one sentence."""

import os
import sys

import pytest
from prepare_media import contents, write_corpus

from cvvae_jax.data.prepare.options import PrepareConfig, PrepareOptions
from cvvae_jax.data.prepare.run import prepare
from cvvae_jax.errors import UserError

SMALL = PrepareConfig(short_side=32)


def test_without_beam_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "cvvae_jax.data.prepare.beam_runner", raising=False)
    with pytest.raises(UserError, match="--runner needs apache-beam: pip install apache-beam"):
        prepare(PrepareOptions("in", str(tmp_path / "out"), SMALL, runner="DirectRunner"))
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    pytest.importorskip("apache_beam")
    return write_corpus(tmp_path_factory.mktemp("beam") / "corpus", videos=4, images=3)


@pytest.fixture(scope="module")
def expected(corpus):
    target = corpus.parent / "data/small/1.0.0"
    prepare(PrepareOptions(str(corpus), str(target), SMALL))
    return contents(target)


def with_beam(corpus, target, options=""):
    return prepare(
        PrepareOptions(str(corpus), str(target), SMALL, runner="DirectRunner", beam_options=options)
    )


def test_a_pipeline_gives_the_same_bytes(corpus, expected, tmp_path):
    target = tmp_path / "small/1.0.0"
    with_beam(corpus, target, "--direct_running_mode=multi_threading --direct_num_workers=2")
    assert contents(target) == expected


def test_a_pipeline_goes_on_where_it_was(corpus, expected, tmp_path, monkeypatch):
    target = tmp_path / "small/1.0.0"
    with monkeypatch.context() as patched:
        patched.setattr("cvvae_jax.data.prepare.run._complete", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            with_beam(corpus, target)
    parts = sorted((target / ".prepare/parts").iterdir())
    made = {path: os.stat(path).st_mtime_ns for path in target.glob("*.array_record*")}
    parts[0].unlink()
    again = target / parts[0].stem
    with_beam(corpus, target)
    assert contents(target) == expected
    assert [path for path in made if os.stat(path).st_mtime_ns != made[path]] == [again]


def test_a_pipeline_writes_to_an_address(corpus, expected):
    import fsspec

    with_beam(corpus, "memory://beam/small/1.0.0")
    system = fsspec.filesystem("memory")
    found = system.find("/beam/small/1.0.0")
    assert {name.rpartition("/")[2]: system.cat_file(name) for name in found} == expected
    system.rm("/beam", recursive=True)


def test_a_job_that_fails_is_told_in_one_sentence(corpus, tmp_path, monkeypatch):
    def fail(self):
        raise UserError("No space left.")

    monkeypatch.setattr("cvvae_jax.data.prepare.shards.ShardJob.run", fail)
    with pytest.raises(UserError, match=r"^DirectRunner failed: .*No space left") as caught:
        with_beam(corpus, tmp_path / "small/1.0.0")
    assert "\n" not in str(caught.value)


def test_runners_that_beam_lacks_are_refused(corpus, tmp_path):
    options = PrepareOptions(str(corpus), str(tmp_path / "out"), SMALL, runner="NoRunner")
    with pytest.raises(UserError, match="NoRunner failed: "):
        prepare(options)


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(UserError, match="--beam-options are for a Beam pipeline"):
        PrepareOptions("a", "b", beam_options="--x=1")
    with pytest.raises(UserError, match="--workers has no effect with --runner"):
        PrepareOptions("a", "b", runner="DirectRunner", workers=2)
    with pytest.raises(UserError, match="must be the name of a Beam runner"):
        PrepareOptions("a", "b", runner="--x")

"""Sets of shards tell when they are not what was written; older ones are read as before."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from latents_of import PlainEncoder, records, write, write_sources
from prepare_media import pictures, write_video

import cvvae_jax
from cvvae_jax.data.prepare.options import PrepareConfig, PrepareOptions
from cvvae_jax.data.prepare.run import prepare
from cvvae_jax.data.record_shards import RecordShards
from cvvae_jax.data.record_shards import _reader as open_shard
from cvvae_jax.errors import UserError
from cvvae_jax.latents.dataset import _reader as open_latents_shard

FORMATS = ("array_record", "webdataset")


@pytest.fixture(scope="module", params=FORMATS)
def latents(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_sources(folder / "in")
    write(folder / "in", folder / "out", PlainEncoder(), format=request.param, clip_frames=9)
    return folder / "out"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    for number in range(2):
        write_video(folder / f"in/{number}.mp4", pictures(9, seed=number))
    config = PrepareConfig(short_side=32)
    prepare(PrepareOptions(str(folder / "in"), str(folder / "out"), config=config, workers=1))
    return folder / "out"


def copied(folder, tmp_path):
    open_shard.cache_clear()
    open_latents_shard.cache_clear()
    return Path(shutil.copytree(folder, tmp_path / "set"))


def read_media(folder):
    source = RecordShards(str(folder), "video")
    return [source[number].data for number in range(len(source))]


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << at % 8
    path.write_bytes(content)


@pytest.mark.parametrize("seed", range(3))
def test_no_flipped_bit_of_a_shard_gives_other_latents(latents, tmp_path, seed):
    right = records(latents)
    folder = copied(latents, tmp_path)
    shard = next(folder.glob("*000000-of*"))
    whole, refused = shard.read_bytes(), 0
    used = len(whole.rstrip(b"\0"))
    for at in np.random.default_rng(seed).choice(used, 15, replace=False):
        shard.write_bytes(whole)
        flip(shard, at)
        open_latents_shard.cache_clear()
        try:
            found = records(folder)
        except UserError as error:
            assert shard.name in str(error)
            refused += 1
        else:
            np.testing.assert_equal(found, right)
    assert refused


@pytest.mark.parametrize("name", ["index.jsonl", "latents.json", "statistics.json", "SHA256SUMS"])
def test_what_describes_latents_is_what_was_written(latents, tmp_path, name):
    folder = copied(latents, tmp_path)
    size = (folder / name).stat().st_size
    for at in (size // 3, size // 2):
        flip(folder / name, at)
        with pytest.raises(UserError, match=str(folder)):
            cvvae_jax.LatentsDataset(folder)
        flip(folder / name, at)
    (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match=str(folder)):
        cvvae_jax.LatentsDataset(folder)


def test_other_programs_can_compare_the_checksums(latents, prepared):
    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is not installed")
    for folder in (latents, prepared):
        subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=folder, check=True)


def without_checksums(folder):
    (folder / "SHA256SUMS").unlink()
    rows = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    lines = [json.dumps({k: v for k, v in row.items() if k != "crc32"}) + "\n" for row in rows]
    (folder / "index.jsonl").write_text("".join(lines))


def check_older_set(whole, tmp_path, read, caplog):
    right, old = read(whole), copied(whole, tmp_path)
    assert not caplog.records
    without_checksums(old)
    np.testing.assert_equal(read(old), right)
    (line,) = caplog.messages
    assert f"{old} was written without checksums" in line


def test_older_latents_are_read_and_said_to_have_no_checksums(latents, tmp_path, caplog):
    check_older_set(latents, tmp_path, records, caplog)


def test_older_media_are_read_and_said_to_have_no_checksums(prepared, tmp_path, caplog):
    check_older_set(prepared, tmp_path, read_media, caplog)


ODD_ROWS = [
    "",
    "[]",
    "[" * 100_000,
    '{"shard": "../x", "place": 0, "bytes": 9}',
    '{"shard": "/etc/passwd", "place": 0, "bytes": 9}',
    '{"shard": "latents-0-of-1.tar", "place": NaN, "bytes": 9}',
    '{"shard": "latents-0-of-1.tar", "place": 1e999, "bytes": 9}',
    '{"shard": "latents-0-of-1.tar", "place": -1, "bytes": 9}',
    '{"shard": "latents-0-of-1.tar", "place": 1e3, "bytes": 9}',
    '{"shard": "latents-0-of-1.tar", "place": 1' + "0" * 30 + ', "bytes": 9}',
    '{"shard": "latents-0-of-1.tar", "place": 0, "bytes": 9, "crc32": "x"}',
    '{"shard": 5, "place": 0, "bytes": 9}',
    '{"place": 0, "bytes": 9}',
    "\udcff",
]


@pytest.mark.parametrize("row", ODD_ROWS)
def test_an_odd_line_of_the_index_is_named(latents, tmp_path, row):
    folder = copied(latents, tmp_path)
    (folder / "SHA256SUMS").unlink()
    with (folder / "index.jsonl").open("ab") as file:
        file.write(row.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(UserError, match=r"index\.jsonl"):
        cvvae_jax.LatentsDataset(folder)


@pytest.mark.parametrize("name", ["latents.json", "statistics.json"])
@pytest.mark.parametrize(
    "text", ["", "[]", "5", "[" * 100_000, '{"mean": [NaN], "std": [1], "format": 3}', "\xff"]
)
def test_odd_descriptions_are_named(latents, tmp_path, name, text):
    folder = copied(latents, tmp_path)
    (folder / "SHA256SUMS").unlink()
    (folder / name).write_text(text, encoding="latin1")
    with pytest.raises(UserError, match=name):
        cvvae_jax.LatentsDataset(folder)


def test_the_number_of_records_is_that_of_the_index(latents, tmp_path):
    folder = copied(latents, tmp_path)
    (folder / "SHA256SUMS").unlink()
    lines = (folder / "index.jsonl").read_text().splitlines(keepends=True)
    (folder / "index.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=f"{len(lines) - 1} records, and statistics.json says"):
        cvvae_jax.LatentsDataset(folder)
    if next(folder.glob("*.array_record"), None):
        said = json.loads((folder / "statistics.json").read_text())
        said["records"] -= 1
        (folder / "statistics.json").write_text(json.dumps(said))
        with pytest.raises(UserError, match="is not the shard that index"):
            records(folder)


def test_no_flipped_bit_gives_other_media(prepared, tmp_path):
    right = read_media(prepared)
    folder = copied(prepared, tmp_path)
    shard = next(folder.glob("*array_record*"))
    whole, refused = shard.read_bytes(), 0
    for at in np.random.default_rng(0).choice(len(whole), 30, replace=False):
        shard.write_bytes(whole)
        flip(shard, at)
        open_shard.cache_clear()
        try:
            assert read_media(folder) == right
        except UserError:
            refused += 1
    assert refused


def test_the_index_of_a_prepared_set_is_what_was_written(prepared, tmp_path):
    folder = copied(prepared, tmp_path)
    text = (folder / "index.jsonl").read_text()
    (folder / "index.jsonl").write_text(text.replace('"kind": "video"', '"kind": "image"', 1))
    with pytest.raises(UserError, match="is not what was written, by SHA256SUMS"):
        read_media(folder)
    (folder / "SHA256SUMS").unlink()
    shard = text[: text.index('"position')]
    for bad in ("", f'{shard}"position": NaN}}', f'{shard}"position": 1e999}}', "[" * 9999, "\xff"):
        (folder / "index.jsonl").write_text(text + bad + "\n", encoding="latin1")
        with pytest.raises(UserError, match=r"index\.jsonl"):
            read_media(folder)

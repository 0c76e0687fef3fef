"""The benchmark of encoding and decoding compares like with like."""

import pytest

from benchmarks.codec import __main__ as codec
from benchmarks.codec.setting import Size, configuration, operations, random_input
from cvvae_jax.models import conv_forms


@pytest.mark.parametrize(
    ("text", "chunks", "chunk"),
    [("17x256x256", 1, 17), ("33x512x512", 2, 17), ("81x576x1024", 5, 17), ("5x32x32", 1, 5)],
)
def test_videos_are_chunks_of_17_frames_that_share_one(text, chunks, chunk):
    size = Size.parse(text)
    assert (size.chunks, size.chunk.frames, str(size)) == (chunks, chunk, text)


def test_fewer_operations_are_executed_than_official_ones(monkeypatch):
    """After upsampling, 16 of 36 taps, on a row and a column more."""
    monkeypatch.setattr(conv_forms, "_SUB_PIXEL_CHANNELS", 0)
    config = configuration("sd3", dtype="float32", tiny=True)
    array = random_input("decode", config, Size(5, 32, 32))
    official, executed = operations("decode", config, array)
    assert 0.5 * official < executed < 0.95 * official


def test_both_sides_run_and_agree(capsys):
    """Networks of the same random weights differ by float32's rounding alone."""
    pytest.importorskip("torch")
    codec.main(codec.Benchmark(quick=True, dtypes=("float32",), preset="sd3"))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if " 5x32x32 " in line]
    assert [(row[0], row[2]) for row in rows] == [
        ("encode", "cvvae_jax"),
        ("encode", "torch"),
        ("decode", "cvvae_jax"),
        ("decode", "torch"),
    ]
    for row in rows:
        if row[2] == "torch":
            assert float(row[-1]) < 1e-4
        else:
            assert float(row[4]) > 0


def test_side_that_fails_leaves_the_others_their_rows(capsys, monkeypatch):
    monkeypatch.setattr(codec, "theirs", None)
    options = codec.Benchmark(quick=True, dtypes=("float32",))

    def broken(*_):
        raise MemoryError("no room for 3 bytes")

    monkeypatch.setattr(codec.ours, "Ours", broken)
    with pytest.raises(SystemExit):
        codec.main(options)
    assert capsys.readouterr().out.count("failed: MemoryError: no room for 3 bytes") == 2

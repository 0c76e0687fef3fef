"""Frames keep their times from file to file, looked at as packets, as a player gets them."""

import re
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from packets import MEDIA, shown

from cvvae_jax.errors import UserError
from cvvae_jax.video_io import video
from cvvae_jax.video_io.containers import WRITABLE_VIDEO_SUFFIXES
from cvvae_jax.video_io.frame_index import read_times
from cvvae_jax.video_io.times import Times
from cvvae_jax.video_io.video_writer import VideoWriter

pytestmark = pytest.mark.stack

SUFFIXES = [(suffix, begun) for suffix in WRITABLE_VIDEO_SUFFIXES for begun in (False, True)]


def copied(source: Path, target: Path, *, keep_begun: bool = False) -> Path:
    """A video written anew, frame by frame, as `reconstruct` does."""
    info = video.probe(source)
    with VideoWriter(
        target,
        times=read_times(source),
        height=info.height,
        width=info.width,
        display=info.display,
        audio_from=source,
        keep_begun=keep_begun,
    ) as writer:
        for frame in video.read_frames(source):
            writer.write(frame)
    return target


def unit(path: Path) -> float:
    """Matroska rounds to milliseconds; a sample of sound, else."""
    return 1e-3 if path.suffix == ".mkv" else 1 / 44100


@pytest.mark.parametrize(("suffix", "keep_begun"), SUFFIXES)
@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("timing_aac.mp4", [k / 25 for k in range(50)]),
        ("timing_trimmed.mp4", [k / 25 for k in range(42)]),
        ("vfr_with_sound.mp4", [k / 25 for k in range(25)] + [1 + k / 5 for k in range(20)]),
    ],
)
def test_frames_and_sound_stay_in_step(tmp_path, name, times, suffix, keep_begun):
    target = copied(MEDIA / name, tmp_path / f"out{suffix}", keep_begun=keep_begun)
    np.testing.assert_allclose(shown(target, "video"), times, rtol=0, atol=unit(target))
    heard, before = shown(target, "audio"), shown(MEDIA / name, "audio")
    # A first packet that is heard in part fits no Matroska file.
    before = [time for time in before if time >= 0] if suffix == ".mkv" else before
    np.testing.assert_allclose(heard, before, rtol=0, atol=unit(target))
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("keep_begun", [False, True])
def test_streams_that_begin_late_together_begin_at_once_and_in_step(tmp_path, keep_begun):
    """A player doesn't wait for 5 s; the sound is 23 ms ahead of the video."""
    target = copied(MEDIA / "mkv_late_start.mkv", tmp_path / "out.mp4", keep_begun=keep_begun)
    assert shown(target, "audio")[0] == pytest.approx(0, abs=1 / 44100)
    times = [0.023 + k / 25 for k in range(50)]
    np.testing.assert_allclose(shown(target, "video"), times, rtol=0, atol=1 / 90000)


@pytest.mark.parametrize("suffix", WRITABLE_VIDEO_SUFFIXES)
def test_frames_of_two_seconds(tmp_path, suffix):
    target = copied(MEDIA / "mkv_2s_a_frame.mkv", tmp_path / f"out{suffix}")
    assert shown(target, "video") == [2.0 * k for k in range(25)]
    with av.open(str(target)) as container:
        assert float(container.duration) / av.time_base == pytest.approx(50, abs=1e-3)


def test_a_repeated_frame_is_shown_on(tmp_path):
    """The empty packets of an Ogg file: 19 frames of a second, the last one until its end."""
    source = MEDIA / "theora_empty_packets.ogv"
    target = copied(source, tmp_path / "out.mp4")
    with av.open(str(source)) as container:
        expected = [float(p.pts * Fraction(1, 25)) for p in container.demux(video=0) if p.size]
    np.testing.assert_allclose(shown(target, "video"), expected, rtol=0, atol=1e-9)
    with av.open(str(target)) as container:
        assert container.duration / av.time_base == pytest.approx(1, abs=1e-3)


def boxes(path: Path) -> list[bytes]:
    """The names of an MP4's outermost boxes, in their order."""
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        names.append(data[at + 4 : at + 8])
        at += int.from_bytes(data[at : at + 4], "big") or len(data)
    return names


@pytest.mark.parametrize("keep_begun", [False, True])
def test_a_player_finds_the_index_at_the_beginning(tmp_path, keep_begun):
    names = boxes(copied(MEDIA / "timing_aac.mp4", tmp_path / "out.mp4", keep_begun=keep_begun))
    assert b"moof" not in names
    assert names.index(b"moov") < names.index(b"mdat")


def with_edits(path: Path, pieces: list[tuple[float, float]]) -> Path:
    """`timing_aac.mp4` with other edit lists: all streams from and until these seconds, one piece
    after the other. Its list of boxes is at the end."""
    data = bytearray((MEDIA / "timing_aac.mp4").read_bytes())
    starts = [box.start() - 4 for box in re.finditer(b"trak", data)]
    for trak in reversed(starts):
        (per_second,) = struct.unpack_from(">I", data, data.index(b"mdhd", trak) + 16)
        at = data.index(b"edts", trak) - 4
        (_, first) = struct.unpack_from(">Ii", data, data.index(b"elst", trak) + 12)
        entries = b"".join(
            struct.pack(
                ">IiHH", round((end - start) * 1000), first + round(start * per_second), 1, 0
            )
            for start, end in pieces
        )
        elst = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(pieces)) + entries
        edts = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
        (old,) = struct.unpack_from(">I", data, at)
        data[at : at + old] = edts
        for box in (trak, data.rindex(b"moov") - 4):
            (size,) = struct.unpack_from(">I", data, box)
            struct.pack_into(">I", data, box, size + len(edts) - old)
    path.write_bytes(data)
    return path


def test_two_pieces_of_an_edit_list_follow_each_other(tmp_path):
    source = with_edits(tmp_path / "in.mp4", [(0, 0.6), (1, 1.8)])
    target = copied(source, tmp_path / "out.mp4")
    assert len(shown(source, "video")) == 35
    np.testing.assert_allclose(shown(target, "video"), np.arange(35) / 25, atol=1e-6)
    np.testing.assert_allclose(
        shown(target, "audio"), shown(source, "audio"), rtol=0, atol=2 / 44100
    )


def test_sound_goes_on_after_the_last_frame(tmp_path):
    """The source has frames until 4.84 s, and sound until 5 s."""
    target = copied(MEDIA / "vfr_with_sound.mp4", tmp_path / "out.mp4")
    assert shown(target, "audio")[-1] == pytest.approx(
        shown(MEDIA / "vfr_with_sound.mp4", "audio")[-1]
    )
    assert shown(target, "audio")[-1] > 4.9


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60)])
@pytest.mark.parametrize("unit", [Fraction(1, 1000), Fraction(1, 600), Fraction(1, 90000)])
def test_a_rate_that_a_container_rounded_is_exact_again(rate, unit):
    ticks = np.round(np.arange(100) / float(rate * unit)).astype(np.int64)
    assert Times.of(ticks, unit, stated=(rate,)) == Times(rate, count=100)


def test_uneven_times_are_kept_as_they_are():
    ticks = np.array([7, 8, 9, 14, 15])
    times = Times.of(ticks, Fraction(1, 25), stated=(Fraction(25),), last=2)
    assert times.ticks == (0, 1, 2, 7, 8) and times.rate == Fraction(4 * 25, 8)
    assert [times.at(k) for k in range(6)] == [Fraction(k, 25) for k in (0, 1, 2, 7, 8, 10)]
    assert Times.from_json(times.to_json()) == times
    some = times.taken(np.array([0, 2, 3]), Fraction(7))
    assert some.ticks == (0, 2, 7) and some.at(3) == Fraction(8, 25)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", '{"rate": "0"}', '{"rate": "x"}', '{"start": "0"}', '{"rate": "1/0"}',
     '{"rate": "25", "ticks": [0, 0]}', '{"rate": "25", "ticks": 5}',
     '{"rate": "25", "ticks": [0, 1], "unit": "0"}'],
)  # fmt: skip
def test_other_texts_are_no_times(text):
    with pytest.raises(ValueError):
        Times.from_json(text)


def test_a_writer_takes_a_rate_or_times(tmp_path):
    with pytest.raises(UserError, match="either fps or times"):
        VideoWriter(tmp_path / "out.mp4", height=8, width=8)
    with pytest.raises(UserError, match="either fps or times"):
        VideoWriter(tmp_path / "out.mp4", fps=25, times=Times(Fraction(25)), height=8, width=8)

"""Files appended to one another, whose times begin anew; times that are missing or equal."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from odd_media import good_videos
from packets import shown

from cvvae_jax.video_io import video
from cvvae_jax.video_io.frame_index import count_frames, frame_times, read_times
from cvvae_jax.video_io.times import Times
from cvvae_jax.video_io.video_writer import VideoWriter

pytestmark = pytest.mark.stack

COUNT = 10


def broadcast(path: Path, *, start: Fraction) -> Path:
    """Ten frames with 0.4 s of sound, in a transport stream that begins at a time."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25, options={"bf": "2"})
        picture.height, picture.width, picture.pix_fmt = 32, 48, "yuv420p"
        sound = container.add_stream("mp2", rate=32000, layout="mono")
        for number in range(COUNT):
            frame = av.VideoFrame(48, 32, "yuv420p")
            frame.pts, frame.time_base = number + round(start * 25), Fraction(1, 25)
            container.mux(picture.encode(frame))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 12800), np.int16), "s16", "mono")
        samples.sample_rate, samples.pts = 32000, round(start * 32000)
        samples.time_base = Fraction(1, 32000)
        container.mux([*picture.encode(), *sound.encode(samples), *sound.encode()])
    return path


@pytest.mark.parametrize("starts", [(0, 0), (10, 0)])
def test_appended_files_are_one_video_and_stay_in_step(tmp_path, starts):
    parts = [
        broadcast(tmp_path / f"{number}.ts", start=Fraction(start)).read_bytes()
        for number, start in enumerate(starts)
    ]
    both, copy = tmp_path / "both.ts", tmp_path / "copy.mp4"
    both.write_bytes(b"".join(parts))
    frames = list(video.read_frames(both))
    assert len(frames) == count_frames(both) == 2 * COUNT
    times = read_times(both)
    assert (times.rate, times.ticks, times.count) == (25, None, 2 * COUNT)
    np.testing.assert_array_equal(video.read_clip(both, range(2 * COUNT)), frames)
    with VideoWriter(copy, times=times, height=32, width=48, audio_from=both) as writer:
        for frame in frames:
            writer.write(frame)
    np.testing.assert_allclose(np.diff(shown(copy, "video")), 1 / 25, atol=1e-6)
    heard = shown(copy, "audio")
    assert len(heard) == 2 * len(shown(tmp_path / "0.ts", "audio"))
    assert heard[-1] == pytest.approx(2 * COUNT / 25, abs=0.1)


@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
def test_sound_whose_times_were_rounded_keeps_its_place(tmp_path, suffix):
    """Packets of 5/6 ms in a file that counts milliseconds: some have equal times."""
    source, target = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    with av.open(str(source), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        for number in range(600):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 40), np.int16), "s16", "mono")
            samples.sample_rate, samples.pts = 48000, 40 * number
            samples.time_base = Fraction(1, 48000)
            container.mux(sound.encode(samples))
    before = shown(source, "audio")
    assert len(set(before)) < len(before) == 600
    with VideoWriter(target, fps=25, height=32, width=48, audio_from=source) as writer:
        for _ in range(13):
            writer.write(np.zeros((32, 48, 3), np.uint8))
    with av.open(str(target)) as container:
        packets = [p for p in container.demux(container.streams.audio[0]) if p.size]
        end = float((packets[-1].pts + packets[-1].duration) * packets[-1].time_base)
    assert end == pytest.approx(0.5, abs=2e-3)


def test_sound_that_a_container_refuses_is_left_out(tmp_path, caplog):
    """QuickTime takes no Opus, though FFmpeg lists it."""
    source = tmp_path / "in.webm"
    with av.open(str(source), "w") as container:
        sound = container.add_stream("libopus", rate=48000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.int16), "s16", "mono")
        samples.sample_rate = 48000
        container.mux([*sound.encode(samples), *sound.encode()])
    for suffix, has_sound in ((".mov", False), (".mp4", True), (".mkv", True)):
        target = tmp_path / f"out{suffix}"
        with VideoWriter(target, fps=25, height=32, width=48, audio_from=source) as writer:
            for _ in range(5):
                writer.write(np.zeros((32, 48, 3), np.uint8))
        assert video.probe(target).has_audio == has_sound
    assert "opus audio fits no" in caplog.text


def jpegs(path: Path, times: list[int]) -> Path:
    """Different frames with these presentation times, in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuvj420p"
        for number, time in enumerate(times):
            grey = np.full((32, 48, 3), 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in stream.encode(frame):
                packet.pts, packet.dts = time, number  # which Matroska doesn't keep
                packet.time_base = Fraction(1, 1000)
                container.mux(packet)
    return path


def test_two_frames_of_one_time_do_not_change_the_times_of_others(tmp_path):
    path = jpegs(tmp_path / "equal.mkv", [0, 40, 40, 120, 160, 1160, 1200])
    assert shown(path, "video").count(0.04) == 2
    expected = [0, 0.04, 0.041, 0.12, 0.16, 1.16, 1.2]
    np.testing.assert_allclose(frame_times(path), expected, atol=1e-9)


def test_a_clip_of_frames_out_of_order_is_that_of_reading(tmp_path):
    """Frames come as they lie in the file, as a player shows them."""
    path = jpegs(tmp_path / "back.mkv", [0, 40, 80, 60, 160, 200])
    assert count_frames(path) == 6
    frames = list(video.read_frames(path))
    assert len({frame.tobytes() for frame in frames}) == 6
    for number in range(6):
        np.testing.assert_array_equal(video.read_clip(path, [number])[0], frames[number])


def test_a_clip_is_read_from_the_beginning_where_the_middle_cannot_be_found(tmp_path):
    """The second of two animations, which has a header of its own."""
    path = tmp_path / "both.gif"
    good_videos()["animation.gif"](path)
    path.write_bytes(2 * path.read_bytes())
    frames = list(video.read_frames(path))
    assert len(frames) == count_frames(path) == 40
    np.testing.assert_array_equal(video.read_clip(path, [30, 39]), [frames[30], frames[39]])


def test_frames_without_a_time_come_before_those_with_one(tmp_path):
    """Matroska can't tell times before 0, which FFmpeg writes all the same."""
    path = tmp_path / "before.mkv"
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(path), "w", container_options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for number in range(COUNT):
            frame = av.VideoFrame(48, 32, "yuv420p")
            frame.pts, frame.time_base = number - 4, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert None in [packet.pts for packet in container.demux() if packet.size]
    assert count_frames(path) == len(list(video.read_frames(path))) == COUNT
    assert read_times(path) == Times(Fraction(25), count=COUNT)
    assert video.read_clip(path, [0, COUNT - 1]).shape == (2, 32, 48, 3)


def test_a_single_frame_is_shown_as_long_as_its_packet_says():
    times = Times.of(np.array([5]), Fraction(1, 1000), stated=(Fraction(50),), last=40)
    assert times == Times(Fraction(25), count=1)

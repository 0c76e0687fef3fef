"""Files in and out: exact sizes, counts and rates, and errors that name the file."""

import contextlib
import itertools
import resource
import subprocess
import sys
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from cvvae_jax.errors import UserError
from cvvae_jax.video_io import containers, video
from cvvae_jax.video_io.containers import WRITABLE_IMAGE_SUFFIXES, WRITABLE_VIDEO_SUFFIXES
from cvvae_jax.video_io.display import Display
from cvvae_jax.video_io.frame_index import count_frames
from cvvae_jax.video_io.images import write_image
from cvvae_jax.video_io.media_types import Frames
from cvvae_jax.video_io.video_writer import VideoWriter

pytestmark = pytest.mark.stack

NTSC = Fraction(30000, 1001)


def clip(frames=6, height=32, width=48):
    """Smooth colors that drift, so that neighboring frames differ and compression keeps them."""
    t, y, x = np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij")
    channels = [
        128 + 100 * np.sin(x / 9 + t / 2),
        128 + 100 * np.cos(y / 7 - t / 3),
        30 + 6 * t % 200,
    ]
    return np.stack(channels, axis=-1).astype(np.uint8)


def write(path, frames, *, fps=NTSC, **options):
    _, height, width, _ = frames.shape
    with VideoWriter(path, fps=fps, height=height, width=width, **options) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def encode(
    path, frames, *, options=None, times=None, rotation=None, audio=False, aspect=Fraction(1)
):
    """A file such as cameras make, which VideoWriter does not: long GOPs, uneven times, sound."""
    options, times = options or {}, times or range(len(frames))
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", **options})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=8000, layout="mono") if audio else None
        for i, (frame, time) in enumerate(zip(frames, times, strict=True)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(picture))
            if sound:
                tone = np.sin(np.arange(i * 320, (i + 1) * 320) / 3, dtype=np.float32)[None]
                samples = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                samples.sample_rate, samples.pts = 8000, i * 320
                container.mux(sound.encode(samples))
        container.mux(stream.encode())
        if sound:
            container.mux(sound.encode())
    return path


def audio_packets(path, *, seconds):
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(audio=0) if p.size]
        return [bytes(p) for p in packets if p.pts * p.time_base < seconds]


@pytest.mark.parametrize("suffix", WRITABLE_VIDEO_SUFFIXES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 9, 10), (3, 1, 1), (5, 35, 61), (5, 64, 2)])
def test_odd_sizes_and_counts_come_back(tmp_path, suffix, shape):
    frames = clip(*shape)
    path = write(tmp_path / f"clip{suffix}", frames)
    back = np.stack(list(video.read_frames(path)))
    assert back.shape == frames.shape
    assert count_frames(path) == len(frames)
    info = video.probe(path)
    assert (info.height, info.width) == shape[1:]
    assert not info.has_audio and not info.is_image


@pytest.mark.parametrize("fps", [NTSC, Fraction(25), Fraction(15, 2), 24])
def test_rate_and_count_are_those_written(tmp_path, fps):
    info = video.probe(write(tmp_path / "clip.mp4", clip(7), fps=fps))
    assert info.fps == fps
    assert info.frames == 7


@pytest.mark.parametrize(("height", "width"), [(64, 96), (63, 95)])
def test_written_colors_come_back(tmp_path, height, width):
    frames = clip(4, height, width)
    back = np.stack(list(video.read_frames(write(tmp_path / "clip.mp4", frames))))
    error = back.astype(float) - frames
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 38  # what is left of 40 dB at this quantizer
    # swscale's quick conversion is off by more than one level; an exact one by compression alone.
    assert np.abs(error.mean(axis=(0, 1, 2))).max() < 0.6


@pytest.mark.parametrize("column", [31, 32])
def test_an_edge_of_colors_stands_still(tmp_path, column):
    """Written and read four times without loss but that of 4:2:0: where chroma was computed for
    another place than it is read at, the edge moves by half a pixel each time."""
    left, right = np.array([200, 30, 30]), np.array([30, 30, 200])
    first = np.where(np.arange(64)[:, None] < column, left, right).astype(np.uint8)
    frame = first = np.repeat(first[None], 48, axis=0)
    for _ in range(4):
        (frame,) = video.read_frames(write(tmp_path / "clip.mp4", frame[None], crf=0))
    for channel in (0, 2):
        values = frame[24, :, channel].astype(float)
        share = (values - right[channel]) / (left[channel] - right[channel])
        assert abs(share.sum() - column) < 0.1
    flat = np.r_[0:16, 48:64]  # some way off, no level has moved
    assert np.abs(frame[:, flat].astype(int) - first[:, flat]).max() <= 1


def test_levels_stay_when_written_again_and_again(tmp_path):
    """A grid of colors. A step of 8 bits of luma is 255 / 219 levels, one of chroma 1.86 x 255 /
    224 levels of blue: half of both is 1.6. That loss doesn't add up."""
    steps = np.linspace(0, 255, 6).round()
    colors = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 1, 1, 3)
    frames = [np.tile(colors, (1, 16, 16, 1)).astype(np.uint8)]
    for _ in range(4):
        path = write(tmp_path / "clip.mp4", frames[-1], crf=0)
        frames.append(np.stack(list(video.read_frames(path))))
    first, once, *_, last = np.stack(frames).astype(int)
    assert np.abs(once - first).max() <= 2
    assert np.abs(last - once).max() <= 1


def test_what_a_player_must_know_is_written(tmp_path):
    """BT.2020 and PQ; pixels twice as high as wide."""
    display = Display(Fraction(1, 2), primaries=9, transfer=16)
    for suffix in WRITABLE_VIDEO_SUFFIXES:
        path = write(tmp_path / f"clip{suffix}", clip(3), display=display)
        assert video.probe(path).display == display
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            aspect = stream.sample_aspect_ratio
            assert (aspect.numerator, aspect.denominator) == (1, 2)
            assert stream.codec_context.color_primaries == 9
            assert stream.codec_context.color_trc == 16


def test_a_turned_video_has_its_pixels_turned_too(tmp_path):
    path = encode(tmp_path / "turned.mp4", clip(3), rotation=90, aspect=Fraction(4, 3))
    assert video.probe(path).display.pixel_aspect == Fraction(3, 4)


def test_quickly_changing_frames_keep_their_order(tmp_path):
    frames = (
        np.random.default_rng(0)
        .integers(0, 256, (12, 1, 1, 3), np.uint8)
        .repeat(16, 1)
        .repeat(16, 2)
    )
    back = np.stack(list(video.read_frames(write(tmp_path / "clip.mp4", frames))))
    assert np.abs(back.astype(int) - frames).max() < 12


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("uneven", [False, True])
def test_clip_equals_sequential_frames(tmp_path, suffix, uneven, monkeypatch):
    gaps = itertools.cycle([1, 1, 3, 2] if uneven else [1])
    times = list(itertools.accumulate(itertools.islice(gaps, 39), initial=5))
    path = encode(tmp_path / f"clip{suffix}", clip(40), times=times, options={"g": "12", "bf": "3"})
    sequential = np.stack(list(video.read_frames(path)))
    assert len(sequential) == 40
    monkeypatch.delattr(video, "_clip_in_sequence")  # seeking is enough here
    for start, stride, frames in [
        (0, 1, 5),
        (11, 1, 3),
        (12, 2, 4),
        (13, 5, 5),
        (39, 1, 1),
        (3, 9, 4),
    ]:
        one = video.read_clip(path, range(start, start + stride * frames, stride))
        np.testing.assert_array_equal(one, sequential[start : start + stride * frames : stride])


def test_clip_without_timestamps_equals_sequential_frames(tmp_path):
    path = tmp_path / "clip.h264"  # a bare stream: its packets carry no times
    encode(path, clip(20), options={"g": "8", "bf": "2"})
    sequential = np.stack(list(video.read_frames(path)))
    one = video.read_clip(path, range(9, 17, 2))
    np.testing.assert_array_equal(one, sequential[9:17:2])


def test_clip_is_resized_by_its_short_side(tmp_path):
    path = write(tmp_path / "clip.mp4", clip(4, 32, 48))
    small = video.read_clip(path, range(1, 3), short_side=16)
    assert small.shape == (2, 16, 24, 3)
    frames = [Image.fromarray(f).resize((24, 16), Image.Resampling.BICUBIC) for f in clip(4)[1:3]]
    # Pillow's filter is antialiased too; compression and chroma subsampling make the difference.
    assert np.abs(small.astype(float) - np.stack(frames)).mean() < 2


@pytest.mark.parametrize("kind", ["video", "image", "frames"])
def test_frames_up_to_the_largest_are_resized_and_no_larger_ones(tmp_path, monkeypatch, kind):
    """A narrow picture that is to cover a square may become too large for memory."""
    media = Frames("frames", clip(1), 25.0)
    if kind == "video":
        media = write(tmp_path / "clip.mp4", clip(1))
    elif kind == "image":
        media = tmp_path / "clip.png"
        write_image(media, clip(1)[0])
    monkeypatch.setattr(containers, "LARGEST_FRAME", 64 * 96)
    assert video.read_clip(media, [0], cover=(64, 64)).shape == (1, 64, 96, 3)
    with pytest.raises(UserError, match="has frames of 98x65, more than the 6,144 pixels"):
        video.read_clip(media, [0], cover=(65, 65))


def test_frames_beyond_the_end_are_refused(tmp_path):
    path = write(tmp_path / "clip.mp4", clip(4))
    with pytest.raises(UserError, match="has 4 frames; frames 2 to 4"):
        video.read_clip(path, range(2, 5))


def test_start_skips_frames(tmp_path):
    path = write(tmp_path / "clip.mp4", clip(6))
    all_frames = list(video.read_frames(path))
    np.testing.assert_array_equal(list(video.read_frames(path, start=4)), all_frames[4:])


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_rotation_metadata_is_applied(tmp_path, rotation, turns):
    plain = encode(tmp_path / "plain.mp4", clip(3))
    turned = encode(tmp_path / "turned.mp4", clip(3), rotation=rotation)
    expected = np.rot90(np.stack(list(video.read_frames(plain))), turns, axes=(1, 2))
    np.testing.assert_array_equal(np.stack(list(video.read_frames(turned))), expected)
    info = video.probe(turned)
    assert (info.height, info.width) == expected.shape[1:3]


@pytest.mark.parametrize("suffix", WRITABLE_VIDEO_SUFFIXES)
def test_audio_is_copied(tmp_path, suffix):
    source = encode(tmp_path / "source.mp4", clip(50), audio=True)
    target = write(tmp_path / f"target{suffix}", clip(25), fps=25, audio_from=source)
    assert video.probe(target).has_audio
    # Packets are the same bytes, and end with the video: 25 frames are one second. Matroska can't
    # say of the first one, which AAC decoders need, that it isn't heard.
    expected = audio_packets(source, seconds=1)
    assert audio_packets(target, seconds=9) == expected[1 if suffix == ".mkv" else 0 :]
    assert count_frames(target) == 25


def test_source_without_audio_gives_a_silent_file(tmp_path):
    source = write(tmp_path / "source.mp4", clip(3))
    assert not video.probe(write(tmp_path / "b.mp4", clip(3), audio_from=source)).has_audio


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_interrupted_writing_leaves_no_file(tmp_path, error):
    with (
        pytest.raises(error),
        VideoWriter(tmp_path / "clip.mp4", fps=25, height=32, width=48) as writer,
    ):
        writer.write(clip()[0])
        raise error
    assert list(tmp_path.iterdir()) == []


def test_interrupted_writing_keeps_the_old_file(tmp_path):
    path = write(tmp_path / "clip.mp4", clip(3))
    before = path.read_bytes()
    with pytest.raises(ValueError), VideoWriter(path, fps=25, height=32, width=48) as writer:
        writer.write(clip()[0])
        raise ValueError
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", WRITABLE_VIDEO_SUFFIXES)
@pytest.mark.parametrize("frames", [3, 200])
def test_full_disk_is_an_error_that_names_the_file(tmp_path, suffix, frames):
    """Few frames fail when the file is closed, many while they are written: the encoder holds some
    dozens back."""
    noise = np.random.default_rng(0).integers(0, 256, (frames, 64, 64, 3), np.uint8)
    with (
        file_size_limit(5000),
        pytest.raises(UserError, match=rf"clip\{suffix} cannot be written: File too large\.$"),
    ):
        write(tmp_path / f"clip{suffix}", noise)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_does_not_hide_another_error(tmp_path):
    with (
        file_size_limit(100),
        pytest.raises(KeyboardInterrupt),
        VideoWriter(tmp_path / "clip.mp4", fps=25, height=32, width=48) as writer,
    ):
        writer.write(clip()[0])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_target_that_cannot_be_replaced_is_named(tmp_path):
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(UserError, match=r"clip\.mp4 cannot be written: Is a directory"):
        write(tmp_path / "clip.mp4", clip(2))
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@contextlib.contextmanager
def file_size_limit(size):
    """Writing more to a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_writer_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(UserError, match=r"clip\.gif .*\.mp4, \.mkv, \.mov"):
        VideoWriter(tmp_path / "clip.gif", fps=25, height=32, width=48)
    with pytest.raises(UserError, match=r"clip\.mp4 cannot be written: No such file"):
        write(tmp_path / "missing" / "clip.mp4", clip(2))
    with pytest.raises(UserError, match="one size, here 48x32; one has 20x20"):
        write_two_sizes(tmp_path / "two.mp4")
    with pytest.raises(UserError, match="no frame"):
        write(tmp_path / "none.mp4", clip(0))
    assert list(tmp_path.iterdir()) == []


def write_two_sizes(path):
    with VideoWriter(path, fps=25, height=32, width=48) as writer:
        writer.write(clip(1)[0])
        writer.write(clip(1, 20, 20)[0])


@pytest.mark.parametrize("name", ["missing.mp4", "empty.mp4", "text.mp4", "text.png"])
def test_unreadable_files_are_named(tmp_path, name):
    path = tmp_path / name
    if not name.startswith("missing"):
        path.write_text("words " * 100 if name.startswith("text") else "")
    for read in (video.probe, lambda p: list(video.read_frames(p))):
        with pytest.raises(UserError, match=name):
            read(path)


def test_file_without_video_is_named(tmp_path):
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    with pytest.raises(UserError, match=r"sound\.wav holds no video"):
        video.probe(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_cut_off_file_gives_its_frames_then_an_error(tmp_path, suffix):
    path = encode(tmp_path / f"whole{suffix}", clip(75), options={"g": "15"})
    whole = list(video.read_frames(path))
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 5])
    frames = []
    with pytest.raises(UserError, match=f"cut{suffix}"):
        frames.extend(frame for frame in video.read_frames(cut))
    assert 10 < len(frames) < 60
    np.testing.assert_array_equal(frames[:10], whole[:10])


def test_abandoned_reading_ends_where_messages_are_passed_on(tmp_path):
    """The decoder's threads need the interpreter for them while it is closed."""
    path = encode(tmp_path / "long.mp4", clip(75), options={"g": "15"})
    program = (
        "import av, sys\n"
        "from cvvae_jax.video_io.video import read_frames\n"
        "av.logging.set_level(av.logging.DEBUG)\n"
        "for _ in range(20): next(read_frames(sys.argv[1]))\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, path], check=True, timeout=300, stderr=subprocess.DEVNULL
    )


def test_changing_frame_size_is_refused(tmp_path):
    one = encode(tmp_path / "one.h264", clip(3, 32, 48))
    two = encode(tmp_path / "two.h264", clip(3, 48, 32))
    both = Path(tmp_path / "both.h264")
    both.write_bytes(one.read_bytes() + two.read_bytes())
    with pytest.raises(UserError, match=r"both\.h264: .* 48x32; one has 32x48"):
        list(video.read_frames(both))


@pytest.mark.parametrize("suffix", WRITABLE_IMAGE_SUFFIXES)
def test_image_is_a_video_of_one_frame(tmp_path, suffix):
    frame = clip(1, 21, 33)[0]
    path = tmp_path / f"photo{suffix}"
    write_image(path, frame)
    (back,) = video.read_frames(path)
    assert np.abs(back.astype(float) - frame).mean() < (1e-9 if suffix == ".png" else 4)
    info = video.probe(path)
    assert (info.frames, info.height, info.width, info.is_image) == (1, 21, 33, True)
    assert video.read_clip(path, [0], short_side=7).shape == (1, 7, 11, 3)
    assert list(tmp_path.iterdir()) == [path]


def test_exif_orientation_is_applied(tmp_path):
    frame = clip(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, as phones store portraits
    Image.fromarray(frame).save(tmp_path / "photo.png", exif=exif)
    (back,) = video.read_frames(tmp_path / "photo.png")
    np.testing.assert_array_equal(back, np.rot90(frame, -1))


def test_sixteen_bit_image_keeps_its_range(tmp_path):
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(tmp_path / "gray.png")
    (back,) = video.read_frames(tmp_path / "gray.png")
    np.testing.assert_array_equal(back[0, :, 0], [0, 100, 255])


def test_image_suffix_must_be_known(tmp_path):
    with pytest.raises(UserError, match=r"photo\.xyz .*\.png, \.jpg, \.jpeg, \.webp"):
        write_image(tmp_path / "photo.xyz", clip(1)[0])

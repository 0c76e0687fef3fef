"""All that read a video file agree on which stream it is, which way up, and whether it is whole."""

import io
import itertools
import math
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from odd_media import encode
from packets import MEDIA

from cvvae_jax.data.check import fault
from cvvae_jax.data.prepare.options import PrepareConfig
from cvvae_jax.data.prepare.transcode import BadMedium, transcode
from cvvae_jax.data.sources import open_source
from cvvae_jax.errors import UserError
from cvvae_jax.video_io import cut_off, video
from cvvae_jax.video_io.frame_index import count_frames, read_times
from cvvae_jax.video_io.media_types import Blob
from cvvae_jax.video_io.video_writer import VideoWriter

pytestmark = pytest.mark.stack

ONE = 1 << 16
WHOLE = PrepareConfig()


def stored(path: Path) -> None:
    """Four different quarters, 48 x 32."""
    frame = np.full((32, 48, 3), 40, np.uint8)
    frame[:16, :24], frame[:16, 24:], frame[16:, :24] = (220, 40, 40), (40, 220, 40), (40, 40, 220)
    with VideoWriter(path, fps=25, height=32, width=48, crf=4) as writer:
        for _ in range(5):
            writer.write(frame)


def with_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """The video with this display matrix, which a track header ends in before its size."""
    stored(path)
    data = bytearray(path.read_bytes())
    identity = struct.pack(">9i", ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))
    numbers = [round(number * ONE) for number in (a, b, c, d)]
    matrix = struct.pack(">9i", *numbers[:2], 0, *numbers[2:], 0, 0, 0, 1 << 30)
    data[at : at + len(matrix)] = matrix
    path.write_bytes(data)
    return path


def as_matrix_says(picture: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Every pixel moved by the definition: (x, y) is shown at (a x + c y, b x + d y)."""
    height, width, _ = picture.shape
    y, x = np.mgrid[:height, :width]
    new_x, new_y = a * x + c * y, b * x + d * y
    new_x, new_y = new_x - new_x.min(), new_y - new_y.min()
    moved = np.empty((new_y.max() + 1, new_x.max() + 1, 3), picture.dtype)
    moved[new_y, new_x] = picture
    return moved


SIGNS = list(itertools.product((1, -1), (1, -1)))
EXACT = [(a, 0, 0, d) for a, d in SIGNS] + [(0, b, c, 0) for b, c in SIGNS]


@pytest.mark.parametrize("matrix", EXACT)
def test_each_of_the_eight_display_matrices(tmp_path, matrix):
    path = with_matrix(tmp_path / "turned.mp4", *matrix)
    stored(tmp_path / "stored.mp4")
    expected = as_matrix_says(next(video.read_frames(tmp_path / "stored.mp4")), *matrix)
    np.testing.assert_array_equal(next(video.read_frames(path)), expected)
    np.testing.assert_array_equal(video.read_clip(path, [3])[0], expected)
    info = video.probe(path)
    assert (info.height, info.width) == expected.shape[:2]
    cover = video.read_clip(path, [3], cover=(24, 16) if matrix[0] == 0 else (16, 24))[0]
    assert cover.shape[:2] == tuple(side // 2 for side in expected.shape[:2])


def turned(degrees: float, scale: float = 1) -> tuple[float, ...]:
    cos, sin = (scale * function(math.radians(degrees)) for function in (math.cos, math.sin))
    return cos, sin, -sin, cos


@pytest.mark.parametrize(
    ("matrix", "like"),
    [
        (turned(0.5), (1, 0, 0, 1)),
        (turned(90.9), (0, 1, -1, 0)),
        (turned(-89.98), (0, -1, 1, 0)),
        (turned(180, scale=2), (-1, 0, 0, -1)),
        (turned(45), (1, 0, 0, 1)),
        (turned(92), (1, 0, 0, 1)),
        ((0, 0, 0, 0), (1, 0, 0, 1)),
        ((1, 0, 0, 0), (1, 0, 0, 1)),
        ((1, 0, 1, 1), (1, 0, 0, 1)),
    ],
)
def test_other_display_matrices_are_the_nearest_of_the_eight_or_none(tmp_path, matrix, like):
    path = with_matrix(tmp_path / "turned.mp4", *matrix)
    same = with_matrix(tmp_path / "like.mp4", *like)
    np.testing.assert_array_equal(next(video.read_frames(path)), next(video.read_frames(same)))


def test_an_attached_picture_is_no_video():
    path = MEDIA / "cover_first.mp4"
    info = video.probe(path)
    assert (info.height, info.width, info.fps, info.frames) == (96, 128, 25, 50)
    assert np.stack(list(video.read_frames(path))).shape == (50, 96, 128, 3)
    assert video.read_clip(path, [49]).shape == (1, 96, 128, 3)


@pytest.mark.parametrize(
    ("defaults", "chosen"),
    [((True, True), 1), ((True, False), 0), ((False, True), 1), ((False, False), 1)],
)
def test_the_default_video_is_read_then_the_largest(tmp_path, caplog, defaults, chosen):
    sizes = [(16, 24), (32, 48)]
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in sizes]
        for stream, (height, width), default in zip(streams, sizes, defaults, strict=True):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            stream.disposition = av.stream.Disposition.default if default else 0
        for stream, (height, width) in zip(streams, sizes, strict=True):
            for _ in range(3):
                frame = np.zeros((height, width, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    assert next(video.read_frames(path)).shape[:2] == sizes[chosen]
    assert count_frames(path) == 3
    said = [record.message for record in caplog.records]
    assert said == [
        f"{path} holds 2 videos; stream {chosen} ({sizes[chosen][1]}x{sizes[chosen][0]}) is read."
    ]


def test_sound_is_that_of_the_program_whose_video_is_read(tmp_path):
    """Another program has the better sound."""
    path = tmp_path / "out.mp4"
    with VideoWriter(
        path, fps=25, height=32, width=48, audio_from=MEDIA / "two_programs.ts"
    ) as writer:
        for frame in video.read_frames(MEDIA / "two_programs.ts"):
            writer.write(frame)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].rate == 22050


def test_a_video_in_an_unknown_format_is_no_video(tmp_path):
    path = tmp_path / "unknown.mp4"
    stored(path)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"xxxx"))
    with pytest.raises(UserError, match=r"unknown\.mp4 holds a video in a format that FFmpeg"):
        video.probe(path)
    assert all("FFmpeg doesn't know" in said for said in verdicts(path, tmp_path).values())


def test_sound_in_an_unknown_format_is_left_out(tmp_path, caplog):
    path = tmp_path / "unknown.mkv"
    path.write_bytes((MEDIA / "mkv_late_start.mkv").read_bytes().replace(b"A_AAC", b"A_XYZ"))
    with VideoWriter(
        tmp_path / "out.mp4", times=read_times(path), height=32, width=48, audio_from=path
    ) as writer:
        writer.write(np.zeros((32, 48, 3), np.uint8))
    assert "unknown audio fits no" in caplog.text
    assert not video.probe(tmp_path / "out.mp4").has_audio


def test_sound_with_a_cover_has_no_video_to_be_in_step_with(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg")
        cover.height, cover.width, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        samples.sample_rate = 8000
        container.mux([*cover.encode(av.VideoFrame(16, 16, "yuvj420p")), *cover.encode()])
        container.mux([*sound.encode(samples), *sound.encode()])
    with VideoWriter(tmp_path / "out.mp4", fps=25, height=16, width=16, audio_from=path) as writer:
        for _ in range(25):
            writer.write(np.zeros((16, 16, 3), np.uint8))
    assert video.probe(tmp_path / "out.mp4").has_audio


def test_empty_packets_do_not_end_a_video():
    path = MEDIA / "theora_empty_packets.ogv"
    frames = list(video.read_frames(path))
    assert len(frames) == count_frames(path) == 19
    np.testing.assert_array_equal(video.read_clip(path, [0, 18]), [frames[0], frames[18]])


@pytest.mark.parametrize(
    ("name", "count"), [("mkv_2s_a_frame.mkv", 25), ("mkv_late_start.mkv", 50)]
)
def test_whole_files_with_odd_times_are_whole(tmp_path, name, count):
    path = MEDIA / name
    assert len(list(video.read_frames(path))) == count_frames(path) == count
    assert verdicts(path, tmp_path) == {"read": None, "check": None, "prepare": None}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["mkv_2s_a_frame.mkv", "mkv_late_start.mkv"])
def test_matroska_without_its_end_was_cut_off(tmp_path, name, share):
    data = (MEDIA / name).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match="ends early"):
        count_frames(path)
    assert all("ends early" in verdict for verdict in verdicts(path, tmp_path).values())
    with pytest.raises(UserError, match="ends early"):
        count_frames(Blob("cut.mkv", path.read_bytes()))


def test_matroska_without_what_follows_its_frames_is_whole(tmp_path):
    """Matroska's index is at the end of the file, and frames can be read without it."""
    data = (MEDIA / "mkv_2s_a_frame.mkv").read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[:-10])
    assert count_frames(path) == 25
    with path.open("rb") as file:
        assert not cut_off.is_cut_off(file, "matroska")


def test_fragments_without_their_end_were_cut_off(tmp_path):
    """FFmpeg takes what is there of a fragment's list of frames for all of it."""
    whole = tmp_path / "whole.mp4"
    encode(
        whole,
        frames=10,
        options={"g": "5"},
        format_options={"movflags": "frag_keyframe+empty_moov"},
    )
    data = whole.read_bytes()
    assert data.count(b"moof") == 2
    last = data.rindex(b"moof") - 4
    size = int.from_bytes(data[last : last + 4], "big")
    path = tmp_path / "cut.mp4"
    for end in (last + 20, last + size - 8, last + size, last + size + 4, last + size + 12):
        path.write_bytes(data[:end])
        assert all("cut.mp4" in verdict for verdict in verdicts(path, tmp_path).values()), end
        with path.open("rb") as file:
            assert cut_off.is_cut_off(file, "mov")
    for rest in (b"", b"trailing", bytes(100), data[last : last + 4] + b"free"):
        assert not cut_off.is_cut_off(io.BytesIO(data + rest), "mov")


def test_a_list_of_frames_without_its_end_was_cut_off(tmp_path):
    whole = (MEDIA / "timing_aac.mp4").read_bytes()
    last = whole.rindex(b"moov") - 4
    assert whole.index(b"mdat") < last
    assert cut_off.is_cut_off(io.BytesIO(whole[:-1]), "mov")
    long_size = struct.pack(">I4sQ", 1, b"moov", 100)
    assert cut_off.is_cut_off(io.BytesIO(long_size), "mov")
    assert not cut_off.is_cut_off(io.BytesIO(long_size + bytes(84)), "mov")
    assert not cut_off.is_cut_off(io.BytesIO(whole), "mov")


def test_an_avi_without_its_end_was_cut_off(tmp_path):
    """An AVI's index, which tells of all frames, is at the end of the file."""
    whole, path = tmp_path / "whole.avi", tmp_path / "cut.avi"
    encode(whole, codec="mjpeg", pix_fmt="yuvj420p", frames=10)
    data = whole.read_bytes()
    index = data.rindex(b"idx1")
    path.write_bytes(data[: data.rindex(b"00dc", 0, index)])
    assert all("ends early" in verdict for verdict in verdicts(path, tmp_path).values())
    assert len(data) > index > 1000


@pytest.mark.parametrize("size", [None, 0, 2**31, 2**32 - 1])
def test_an_avi_with_all_its_frames_is_whole_whatever_its_sizes(tmp_path, size):
    path = tmp_path / "odd.avi"
    encode(path, codec="mjpeg", pix_fmt="yuvj420p", frames=10)
    data = bytearray(path.read_bytes())
    if size is not None:
        struct.pack_into("<I", data, data.index(b"movi") - 4, size)
    path.write_bytes(data[: data.rindex(b"idx1")])
    assert count_frames(path) == 10
    assert verdicts(path, tmp_path) == {"read": None, "check": None, "prepare": None}


def test_a_changing_frame_size_is_bad_to_all(tmp_path):
    """Frames of both sizes would be alike once they are made smaller."""
    path = tmp_path / "both.ts"
    parts = tmp_path / "one.ts", tmp_path / "two.ts"
    for part, size in zip(parts, ((64, 96), (32, 48)), strict=True):
        encode(part, frames=4, size=size)
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    said = verdicts(path, tmp_path, PrepareConfig(short_side=32))
    assert all("one has 48x32" in verdict for verdict in said.values()), said
    with pytest.raises(UserError, match="one has 48x32"):
        video.read_clip(path, [3, 4], cover=(32, 48))


def test_colors_that_cannot_be_converted_are_named_by_all(tmp_path):
    path = tmp_path / "odd colors.mp4"
    encode(path, options={"x264-params": "colormatrix=YCgCo"}, frames=3)
    said = verdicts(path, tmp_path)
    assert all("colors with the matrix 8 " in verdict for verdict in said.values()), said


def test_damage_is_found_in_frames_that_are_not_stored(tmp_path):
    """Every second frame is."""
    path = tmp_path / "end.mkv"
    encode(path, codec="mjpeg", pix_fmt="yuvj420p", frames=10)
    with av.open(str(path)) as container:
        last = [bytes(packet) for packet in container.demux() if packet.size][-1]
    data = path.read_bytes()
    at = data.rindex(last)
    path.write_bytes(data[:at] + bytes(len(last)) + data[at + len(last) :])
    said = verdicts(path, tmp_path, PrepareConfig(short_side=32, max_fps=12.5))
    assert all("is damaged" in verdict for verdict in said.values()), said


def verdicts(path: Path, folder: Path, config: PrepareConfig = WHOLE) -> dict[str, str | None]:
    """What reading, `data check` and `data prepare` say of a file; None where it is good."""
    source = open_source(str(path), "video")
    said = {"read": None, "check": fault(source, 0), "prepare": None}
    try:
        list(video.read_frames(path))
    except UserError as error:
        said["read"] = str(error)
    try:
        transcode(path, "video", path.name, "", config, folder)
    except BadMedium as error:
        said["prepare"] = str(error)
    return said


def test_a_damaged_file_is_damaged_to_all(tmp_path):
    path = tmp_path / "flipped_bytes.mp4"
    path.write_bytes((MEDIA / path.name).read_bytes())
    said = verdicts(path, tmp_path)
    assert all("is damaged" in verdict for verdict in said.values()), said
    with pytest.raises(UserError, match="is damaged"):
        video.read_clip(path, range(100))


def test_only_listed_containers_are_opened(tmp_path):
    """A text called like a video, which FFmpeg would follow to a file elsewhere."""
    elsewhere = tmp_path / "elsewhere.mp4"
    stored(elsewhere)
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{elsewhere}\n#EXT-X-ENDLIST\n"
    )
    for name, text in [
        ("concat.mp4", "ffconcat version 1.0\nfile list.m3u8\n"),
        ("direct.mp4", "ffconcat version 1.0\nfile elsewhere.mp4\n"),
        ("hls.mp4", (tmp_path / "list.m3u8").read_text()),
        ("edit.mkv", f"[FORMAT]\nfile={elsewhere}\n"),
        ("session.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
    ]:
        (tmp_path / name).write_text(text)
        for file in (tmp_path / name, Blob(name, text.encode())):
            with pytest.raises(
                UserError, match=rf"{name} cannot be read as a video .* accepted are"
            ):
                video.probe(file)

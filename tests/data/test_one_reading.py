"""All that read a video file agree on which stream it is, which way up, and whether it is whole."""

import itertools
import math
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from packets import MEDIA

from cvvae_jax.config import ConfigError
from cvvae_jax.data import matroska, video
from cvvae_jax.data.check import fault
from cvvae_jax.data.media import Blob
from cvvae_jax.data.prepare.options import PrepareConfig
from cvvae_jax.data.prepare.transcode import BadMedium, transcode
from cvvae_jax.data.sources import open_source

pytestmark = pytest.mark.stack

ONE = 1 << 16


def stored(path: Path) -> None:
    """Four different quarters, 48 x 32."""
    frame = np.full((32, 48, 3), 40, np.uint8)
    frame[:16, :24], frame[:16, 24:], frame[16:, :24] = (220, 40, 40), (40, 220, 40), (40, 40, 220)
    with video.VideoWriter(path, fps=25, height=32, width=48, crf=4) as writer:
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
    assert video.count_frames(path) == 3
    said = [record.message for record in caplog.records]
    assert said == [
        f"{path} holds 2 videos; stream {chosen} ({sizes[chosen][1]}x{sizes[chosen][0]}) is read."
    ]


def test_empty_packets_do_not_end_a_video():
    path = MEDIA / "theora_empty_packets.ogv"
    frames = list(video.read_frames(path))
    assert len(frames) == video.count_frames(path) == 19
    np.testing.assert_array_equal(video.read_clip(path, [0, 18]), [frames[0], frames[18]])


@pytest.mark.parametrize(
    ("name", "count"), [("mkv_2s_a_frame.mkv", 25), ("mkv_late_start.mkv", 50)]
)
def test_whole_files_with_odd_times_are_whole(tmp_path, name, count):
    path = MEDIA / name
    assert len(list(video.read_frames(path))) == video.count_frames(path) == count
    assert verdicts(path, tmp_path) == {"read": None, "check": None, "prepare": None}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["mkv_2s_a_frame.mkv", "mkv_late_start.mkv"])
def test_matroska_without_its_end_was_cut_off(tmp_path, name, share):
    data = (MEDIA / name).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ConfigError, match="ends early"):
        video.count_frames(path)
    assert all("ends early" in verdict for verdict in verdicts(path, tmp_path).values())
    with pytest.raises(ConfigError, match="ends early"):
        video.count_frames(Blob("cut.mkv", path.read_bytes()))


def test_matroska_without_what_follows_its_frames_is_whole(tmp_path):
    """Its index is at the end."""
    data = (MEDIA / "mkv_2s_a_frame.mkv").read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[:-10])
    assert video.count_frames(path) == 25
    with path.open("rb") as file:
        assert not matroska.is_cut_off(file)


def verdicts(path: Path, folder: Path) -> dict[str, str | None]:
    """What reading, `data check` and `data prepare` say of a file; None where it is good."""
    source = open_source(str(path), "video")
    said = {"read": None, "check": fault(source, 0), "prepare": None}
    try:
        list(video.read_frames(path))
    except ConfigError as error:
        said["read"] = str(error)
    try:
        transcode(path, "video", path.name, "", PrepareConfig(), folder)
    except BadMedium as error:
        said["prepare"] = str(error)
    return said


def test_a_damaged_file_is_damaged_to_all(tmp_path):
    path = tmp_path / "flipped_bytes.mp4"
    path.write_bytes((MEDIA / path.name).read_bytes())
    said = verdicts(path, tmp_path)
    assert all("is damaged" in verdict for verdict in said.values()), said
    with pytest.raises(ConfigError, match="is damaged"):
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
                ConfigError, match=rf"{name} cannot be read as a video .* accepted are"
            ):
                video.probe(file)

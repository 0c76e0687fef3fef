"""A folder of everything that is found in folders: bad files, and good ones that are unusual.

Every good file shows four colors, one a quarter of the frame, upright.
"""

import os
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH, COUNT = 64, 96, 20
COLORS = np.array([[[200, 40, 40], [40, 180, 60]], [[50, 60, 200], [220, 200, 60]]], np.uint8)
CUTS = 10


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """The four colors: uint8 (height, width, 3)."""
    rows, columns = (np.arange(side) * 2 // side for side in (height, width))
    return COLORS[rows[:, None], columns[None]]


def encode(
    path: Path,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    frames: int = COUNT,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    times: list[int] | None = None,
    rotation: int = 0,
    interlaced: bool = False,
    options: dict[str, str] | None = None,
    format_options: dict[str, str] | None = None,
    title: str | None = None,
) -> None:
    """A video of the picture; with a rotation, stored turned and marked to be turned back."""
    image = np.rot90(picture(*size), rotation // 90)
    with av.open(f"file:{path}", "w", options=format_options or {}) as container:
        if title:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = pix_fmt
        if rotation:
            stream.set_display_rotation(-rotation)
        for time in times or range(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def good_videos() -> dict[str, Callable[[Path], None]]:
    """Unusual videos by name."""
    uneven = np.cumsum([1, 1, 5, 2] * (COUNT // 4)).tolist()
    makers = {
        "one frame.mp4": {"frames": 1},
        "two frames.mp4": {"frames": 2},
        "odd size.mkv": {"size": (63, 95), "pix_fmt": "yuv444p"},
        "variable rate.mp4": {"times": uneven},
        "interlaced.mp4": {"options": {"x264-params": "tff=1:interlaced=1", "crf": "10"}},
        "ten bits.mp4": {"pix_fmt": "yuv420p10le"},
        "4:4:4 (colon).mp4": {"pix_fmt": "yuv444p"},
        "4:2:2.mkv": {"pix_fmt": "yuv422p"},
        "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
        "hevc ten bits.mkv": {
            "codec": "libx265",
            "pix_fmt": "yuv420p10le",
            "options": {"x265-params": "log-level=none"},
        },
        "vp9.webm": {"codec": "libvpx-vp9", "options": {"crf": "10", "b": "0"}},
        "vp9 alpha.webm": {"codec": "libvpx-vp9", "pix_fmt": "yuva420p"},
        "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "10"}},
        "old.avi": {"codec": "mpeg4", "options": {"q": "2"}},
        "tape.mpg": {"codec": "mpeg2video", "options": {"q": "2"}},
        "broadcast.ts": {},
        "alpha.mov": {"codec": "qtrle", "pix_fmt": "argb"},
        "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
        "lossless.mkv": {"codec": "ffv1", "pix_fmt": "bgra"},
        "full range.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
        "UPPER CASE.MP4": {},
        "ünïcode 视频 🎬.mp4": {},
        "per%03dcent #1 'quote' \"double\".mp4": {},
        "-dash.mp4": {},
        "fragmented.mp4": {"format_options": {"movflags": "frag_keyframe+empty_moov"}},
        "long gop.mp4": {"options": {"g": "1000", "bf": "3"}},
        **{f"rotated {angle}.mp4": {"rotation": angle} for angle in (90, 180, 270)},
    }
    found = {name: lambda path, how=how: encode(path, **how) for name, how in makers.items()}
    latin = {f"latin-1 title{suffix}": _latin_title for suffix in (".avi", ".mkv", ".mp4")}
    return found | latin | {"animation.gif": _animation}


def grey_videos() -> dict[str, Callable[[Path], None]]:
    """Videos without colors."""
    return {"grey.mkv": lambda path: encode(path, codec="ffv1", pix_fmt="gray")}


def good_images() -> dict[str, Callable[[Path], None]]:
    """Unusual images by name."""
    rgb = Image.fromarray(picture())
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(picture())))
    quality = {"quality": 95}
    return {
        "cmyk.jpg": lambda path: rgb.convert("CMYK").save(path, **quality),
        "progressive.jpeg": lambda path: rgb.save(path, progressive=True, **quality),
        "exif rotated.jpg": lambda path: turned.save(path, exif=exif, **quality),
        "palette.png": lambda path: rgb.quantize(16).save(path),
        "alpha.png": lambda path: rgb.convert("RGBA").save(path),
        "transparent palette.png": lambda path: rgb.quantize(16).save(path, transparency=3),
        "picture.webp": lambda path: rgb.save(path, **quality),
        "picture.avif": lambda path: rgb.save(path, **quality),
        "picture.tiff": lambda path: rgb.save(path),
        "picture.bmp": lambda path: rgb.save(path),
        "a jpeg called.png": lambda path: rgb.save(path, "JPEG", **quality),
        "日本語.jpg": lambda path: rgb.save(path, **quality),
    }


def grey_images() -> dict[str, Callable[[Path], None]]:
    """Images without colors."""
    grey = np.asarray(Image.fromarray(picture()).convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    return {
        "grey.png": lambda path: Image.fromarray(grey).save(path),
        "sixteen bits.png": lambda path: deep.save(path),
        "sixteen bits.tiff": lambda path: deep.save(path),
        "grey alpha.png": lambda path: Image.fromarray(grey).convert("LA").save(path),
    }


def tiny_files() -> dict[str, Callable[[Path], None]]:
    """Good files of a single pixel."""
    return {
        "one pixel.mkv": lambda path: encode(path, size=(1, 1), codec="ffv1", pix_fmt="bgr0"),
        "one pixel.png": lambda path: Image.new("RGB", (1, 1), (9, 9, 9)).save(path),
    }


def bad_files() -> dict[str, tuple[Callable[[Path], None], str]]:
    """How bad files are made, and a part of what is to be said of each."""
    found = {
        "empty.mp4": (Path.touch, "cannot be read as a video"),
        "text.mp4": (lambda p: p.write_text("no video\n" * 99), "cannot be read as a video"),
        "sound only.mp4": (_sound, "holds no video stream"),
        "broken index.mp4": (_broken_index, "is damaged"),
        "huge.avi": (_huge_video, "more than the 67,108,864 pixels"),
        "empty.png": (Path.touch, "cannot be read as an image"),
        "text.jpg": (lambda p: p.write_text("no image"), "cannot be read as an image"),
        "cut.jpg": (_cut_image, "truncated"),
        "huge.png": (_huge_image, "pixels"),
        "cut.mkv": (_cut_matroska, "ends early"),
    }
    for place in range(CUTS):
        share = (place + 0.5) / CUTS
        found[f"cut {place}.mp4"] = (_cutter(share, {}), "cannot be read as a video")
        fast = _cutter(share, {"movflags": "faststart"})
        found[f"cut fast {place}.mp4"] = (fast, "")
    return found


def make(folder: Path) -> None:
    """All of them; the folder also holds a loop of links, a folder and a link called like videos,
    and a link to a good video."""
    folder.mkdir(exist_ok=True)
    good = good_videos() | grey_videos() | good_images() | grey_images() | tiny_files()
    for name, maker in good.items():
        maker(folder / name)
    for name, (maker, _) in bad_files().items():
        maker(folder / name)
    (folder / "loop").symlink_to(folder)
    (folder / "folder.mp4").mkdir()
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")


def _latin_title(path: Path) -> None:
    """A title in the encoding of old files, which isn't UTF-8."""
    codec, pix_fmt = ("mpeg4", "yuv420p") if path.suffix == ".avi" else ("libx264", "yuv420p")
    encode(path, codec=codec, pix_fmt=pix_fmt, options={"q": "2"}, title="cafX")
    path.write_bytes(path.read_bytes().replace(b"cafX", b"caf\xe9"))


def _animation(path: Path) -> None:
    image = Image.fromarray(picture()).quantize(16)
    # Frames that don't differ would be merged.
    others = [image.copy() for _ in range(COUNT - 1)]
    for i, other in enumerate(others):
        other.putpixel((0, i), 1)
    image.save(path, save_all=True, append_images=others, duration=40)


def _sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())


def _noise_video(path: Path, **format_options: str) -> None:
    """Frames that take some bytes, so that there is something to cut off."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=format_options) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "5"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for _ in range(2 * COUNT):
            noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())


def _cutter(share: float, format_options: dict[str, str]) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        _noise_video(path, **format_options)
        os.truncate(path, int(share * path.stat().st_size))

    return cut


def _cut_matroska(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"g": "5"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(2 * COUNT):
            noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    os.truncate(path, path.stat().st_size // 2)


def _broken_index(path: Path) -> None:
    """Every chunk is said to lie somewhere else."""
    _noise_video(path)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"stco") + 8
    (count,) = struct.unpack(">I", data[at : at + 4])
    for i in range(count):
        data[at + 4 + 4 * i : at + 8 + 4 * i] = struct.pack(">I", 5 + i)
    path.write_bytes(data)


def _huge_video(path: Path) -> None:
    encode(path, codec="rawvideo", pix_fmt="bgr24", frames=2)
    data = path.read_bytes()
    for sign in (1, -1):  # rows from the bottom to the top have a negative height
        stated = struct.pack("<ii", WIDTH, sign * HEIGHT)
        data = data.replace(stated, struct.pack("<ii", 12000, sign * 12000))
    path.write_bytes(data)


def _cut_image(path: Path) -> None:
    Image.fromarray(picture(256, 256)).save(path)
    os.truncate(path, path.stat().st_size * 2 // 3)


def _huge_image(path: Path) -> None:
    """The header of a PNG of 60000 x 60000 pixels, and hardly more."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, body, b"IEND")
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))

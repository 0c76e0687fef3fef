"""Small media of many sorts, and the files of a folder, for the tests of `data prepare`."""

import shutil
from fractions import Fraction

import av
import numpy as np
from PIL import Image


def pictures(count, height=48, width=64, seed=0):
    """Frames that differ: a bright column moves, one step of 2 pixels a frame."""
    rng = np.random.default_rng(seed)
    noise = 60 + rng.integers(12, size=(height, width, 1), dtype=np.uint8).repeat(3, axis=2)
    frames = np.stack([noise] * count)
    for number, frame in enumerate(frames):
        frame[:, 2 * number % width : 2 * number % width + 4] = 220
    return frames


def write_video(path, frames, *, times=None, fps=24, rotation=None, options=None):
    """An H.264 file; `times` in milliseconds, one a frame, else constant frames per second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10", **(options or {})})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = (
            Fraction(1, 1000) if times is not None else 1 / Fraction(fps)
        )
        if rotation:
            stream.set_display_rotation(rotation)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts = number if times is None else int(times[number])
            picture.time_base = stream.codec_context.time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def write_corpus(folder, videos=6, images=4):
    """Videos and images with a duplicate and a damaged one of each."""
    for number in range(videos):
        write_video(folder / f"v/{number}.mp4", pictures(20 + number, seed=number))
    (folder / "i").mkdir()
    for number in range(images):
        Image.fromarray(pictures(1, 40, 60, seed=number)[0]).save(folder / f"i/{number}.png")
    shutil.copy(folder / "v/1.mp4", folder / "v/copy.mp4")
    shutil.copy(folder / "i/1.png", folder / "i/copy.png")
    data = (folder / "v/2.mp4").read_bytes()
    (folder / "v/cut.mp4").write_bytes(data[: len(data) // 2])
    (folder / "i/bad.jpg").write_bytes(b"no image")
    return folder


def contents(folder):
    """{name: bytes} of all files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}

"""How fast clips are decoded, from every kind of source, and what is lost on the way to a batch.

    python -m benchmarks.data
    python -m benchmarks.data --videos DIR --frames 17 --size 256

Without a folder, videos of 288 and 720 lines are made of moving photographs. Everything runs on one
core (but for the workers): PyAV and decord reading a file from its beginning; then the pipeline's
random clips of every kind of source, beside the least that PyAV can do for the very same frames:
seek to the keyframe before, decode, resize in swscale. Overhead is what the pipeline takes longer.
"""

import contextlib
import dataclasses
import importlib.util
import io
import os
import platform
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import grain
import numpy as np
import tyro

from cvvae_jax.config import Bucket, DataConfig, StageConfig
from cvvae_jax.data import records
from cvvae_jax.data.photographs import MovingPhotographs
from cvvae_jax.data.pipeline import batches
from cvvae_jax.data.prepare.options import PrepareOptions
from cvvae_jax.data.prepare.run import prepare
from cvvae_jax.video_io import video
from cvvae_jax.video_io.containers import SCALER, VIDEO_SUFFIXES, resized
from cvvae_jax.video_io.decoding import open_video
from cvvae_jax.video_io.frame_index import count_frames, frame_times
from cvvae_jax.video_io.media_types import Blob, Media


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Decoded frames a second, clips a second, batches a second."""

    videos: str | None = None
    """Folder of videos; unset: made for it."""
    frames: int = 17
    """Frames of a clip."""
    size: int = 256
    """Height and width of a clip, in pixels."""
    max_stride: int = 8
    """Source frames from one frame of a clip to the next, at most."""
    batch: int = 8
    """Clips of a batch."""
    batches: int = 8
    """Batches that are timed."""
    made: int = 3
    """Videos that are made, of 10 seconds each."""


# Of the photographs that the videos are made of: drawing larger ones takes minutes.
_SIDE = 512


def main(options: Benchmark) -> None:
    """Prints a table for every height of videos."""
    libraries = (av, grain, np)
    versions = ", ".join(f"{library.__name__} {library.__version__}" for library in libraries)
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    print(f"{versions}; clips of {options.frames} frames, {options.size} x {options.size}")
    with tempfile.TemporaryDirectory() as folder:
        if options.videos is not None:
            measure(options.videos, Path(folder), options)
            return
        for height, width in ((288, 512), (720, 1280)):
            place = Path(folder) / f"{height}p"
            make_videos(place, height, width, options.made)
            measure(str(place), Path(folder) / f"{height}p-shards", options)


def make_videos(folder: Path, height: int, width: int, count: int) -> None:
    """H.264 as cameras and platforms make it: a keyframe every 250 frames at most."""
    folder.mkdir()
    source = MovingPhotographs(split="train", frames=300, size=_SIDE, length=count, seed=0)
    crop = slice((_SIDE - _SIDE * height // width) // 2, (_SIDE + _SIDE * height // width) // 2)
    for i in range(count):
        with av.open(str(folder / f"{i}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"crf": "20"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for number, frame in enumerate(source[i][:, crop]):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                picture = picture.reformat(width, height, "yuv420p")
                picture.pts, picture.time_base = number, Fraction(1, 30)
                container.mux(stream.encode(picture))
            container.mux(stream.encode())


def measure(place: str, work: Path, options: Benchmark) -> None:
    """One place's table."""
    paths = sorted(path for path in Path(place).rglob("*") if path.suffix in VIDEO_SUFFIXES)
    infos = [video.probe(path) for path in paths]
    count = sum(info.frames or 0 for info in infos)
    print(f"\n{place}: {len(paths)} videos, {count} frames, {infos[0].width} x {infos[0].height}")
    sequential = {
        "PyAV, to RGB": _pyav,
        "PyAV, to RGB exactly": _pyav_exact,
        "PyAV, resized to RGB": _pyav_resized,
        "ours, resized to RGB": _ours_whole,
    }
    if importlib.util.find_spec("decord"):
        sequential["decord, to RGB"] = _decord
    for name, read in sequential.items():
        seconds = timed(lambda read=read: [read(path, options.size) for path in paths])
        print(f"  from the beginning, {name:<22}{count / seconds:8.0f} frames/s")
    for name, source in _sources(place, paths, work).items():
        _measure_clips(name, source, options)


def _sources(place: str, paths: list[Path], work: Path) -> dict[str, str]:
    """The same videos as every kind of source."""
    work.mkdir(exist_ok=True)
    with tarfile.open(work / "videos.tar", "w") as tar:
        for path in paths:
            tar.add(path, path.name)
    shards = work / "prepared" / "1.0.0"
    start = time.perf_counter()
    prepare(PrepareOptions(source=place, target=str(shards), workers=1))
    print(f"  `data prepare` on one core: {time.perf_counter() - start:.1f} s")
    return {
        "files": place,
        "tar": str(work / "videos.tar"),
        "prepared shards": str(shards),
        "prepared, by tfds": f"tfds:{shards}",
    }


def _measure_clips(name: str, place: str, options: Benchmark) -> None:
    """The pipeline beside the least that its clips take, and with workers."""
    stage = StageConfig(steps=1, buckets=(Bucket(options.frames, options.size, options.batch),))
    data = DataConfig(place, eval_videos=place, max_stride=options.max_stride, threads=1)
    clips_done = options.batch * options.batches
    with _recorded_reads() as reads:
        seconds = _seconds(batches(stage, data, seed=0, start_step=0), options)
    chosen = [_as_pyav_takes_it(*read) for read in reads[options.batch :][:clips_done]]
    # Taking turns, and the better of two each: the machine may be busy with something else.
    least = timed(lambda: [_least(*read, options.size) for read in chosen])
    seconds = min(seconds, _seconds(batches(stage, data, seed=0, start_step=0), options))
    line = (
        f"  {name:<18}{clips_done / seconds:6.1f} clips/s of {clips_done / least:6.1f} possible, "
        f"overhead {100 * (seconds / least - 1):3.0f} %; batches/s:"
    )
    for workers in (1, 2):
        with_workers = dataclasses.replace(data, workers=workers)
        seconds = _seconds(batches(stage, with_workers, seed=0, start_step=0), options)
        line += f" {options.batches / seconds:.2f} ({workers} workers)"
    print(line, flush=True)


def _seconds(stream: Iterator, options: Benchmark) -> float:
    """For the batches after the first, which starts threads and workers."""
    next(stream)
    start = time.perf_counter()
    for _ in range(options.batches):
        next(stream)
    seconds = time.perf_counter() - start
    stream.close()
    return seconds


@contextlib.contextmanager
def _recorded_reads() -> Iterator[list[tuple[Media, np.ndarray]]]:
    """What clips are cut from meanwhile: media and numbers of frames."""
    reads, read_clip = [], records.read_clip

    def recording(media, numbers, **size):
        reads.append((media, np.asarray(numbers)))
        return read_clip(media, numbers, **size)

    records.read_clip = recording
    try:
        yield reads
    finally:
        records.read_clip = read_clip


def _as_pyav_takes_it(media: Media, numbers: np.ndarray) -> tuple[str | bytes, list[float]]:
    """A path or bytes, and when the frames are shown, in seconds of the file."""
    with open_video(media) as opened:
        start = float((opened.stream.start_time or 0) * opened.stream.time_base)
    times = (frame_times(media)[numbers] + start).tolist()
    return (media.data if isinstance(media, Blob) else str(media)), times


def _least(source: str | bytes, times: list[float], size: int) -> list[np.ndarray]:
    """The frames at some times: nothing but PyAV."""
    frames = []
    with av.open(source if isinstance(source, str) else io.BytesIO(source)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        container.seek(round(times[0] / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time >= times[len(frames)] - 1e-3:
                frames.append(_to_rgb(frame, size))
            if len(frames) == len(times):
                break
    return frames


def _to_rgb(frame: av.VideoFrame, size: int | None) -> np.ndarray:
    height, width = resized(frame.height, frame.width, short_side=size)
    picture = frame.reformat(width, height, "rgb24", interpolation=SCALER, threads=1)
    return picture.to_ndarray()


def _pyav(path: Path, size: int) -> None:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for frame in container.decode(video=0):
            frame.to_ndarray(format="rgb24")


def _pyav_exact(path: Path, size: int) -> None:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for frame in container.decode(video=0):
            _to_rgb(frame, None)


def _pyav_resized(path: Path, size: int) -> None:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for frame in container.decode(video=0):
            _to_rgb(frame, size)


def _ours_whole(path: Path, size: int) -> None:
    video.read_clip(path, range(count_frames(path)), short_side=size)


def _decord(path: Path, size: int) -> None:
    import decord

    for frame in decord.VideoReader(str(path), num_threads=1):
        frame.asnumpy()


def timed(work: Callable[[], object]) -> float:
    """Seconds, the better of two runs: the first one may wait for the disk."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

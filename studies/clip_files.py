"""Clips as a place of data for training: the one function to change where clips come from."""

import os
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8


def write_place(folder: Path, clips: Iterable[UInt8[np.ndarray, "t h w 3"]]) -> None:
    """Writes every clip into a video file of the folder, without loss (FFV1, RGB), 25 frames a
    second. Files that are there already are written anew; a file is whole once it has its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, clip in enumerate(clips):
        path = folder / f"{number:05d}.mkv"
        aside = folder / f".{number:05d}.mkv"
        _write(aside, clip)
        os.replace(aside, path)


def _write(path: Path, clip: UInt8[np.ndarray, "t h w 3"]) -> None:
    with av.open(str(path), "w", format="matroska") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], "bgr0"
        for frame in clip:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            file.mux(stream.encode(picture.reformat(format="bgr0")))
        file.mux(stream.encode())

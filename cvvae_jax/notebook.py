"""`show(video)`: videos in notebooks.

What Jupyter, VS Code and Colab all render, and what stays visible in a stored notebook that nobody
has trusted or run, such as on GitHub, is a picture of type image/png. A PNG may be animated (APNG),
and keeps every color, which GIF, with 256 colors, and video codecs, with halved colors, don't. So
clips become animated PNGs. Longer videos would take tens of megabytes that way: they become VP9 in
an HTML video element with controls, which is decoded by every browser, and by VS Code, whose own
build of Chromium lacks some licensed codecs.
"""

import base64
import dataclasses
import io
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cvvae_jax.errors import UserError
from cvvae_jax.models.inputs import VideoLike, to_uint8, video_array
from cvvae_jax.video_io.web_video import write_webm

_HEIGHT = 256  # pixels that small videos are enlarged to, by a whole factor
_WIDTH = 1024  # pixels that enlarging does not exceed
_GAP = 4
_LARGEST_PICTURE = 8 * 2**20  # bytes of pixels, of which a PNG of a natural video keeps about half


def show(*videos: VideoLike, fps: float = 8.0) -> None:
    """Shows videos in the output of a notebook's cell, repeated for ever.

    Args:
        videos: videos to show beside each other, such as an input and its reconstruction: each
            (b, t, h, w, 3), whose b clips stand below each other, one clip (t, h, w, 3), or
            another `VideoLike`; uint8 in [0, 255] or floats in [-1, 1], which are clipped. A
            shorter one is slowed down to the length of the longest, as the frames of an image
            decoder need it, each of which stands for a group of frames.
        fps: frames per second of the longest one.

    Raises:
        UserError: there is no video, one isn't a video or holds values that are no numbers, or
            IPython, which every notebook has, is missing.
    """
    try:
        from IPython.display import display
    except ImportError as error:
        raise UserError(
            "show needs a notebook, and IPython is not installed here: pip install notebook. A "
            "script can write a file, with cvvae_jax.video_io.video_writer.VideoWriter."
        ) from error
    display(inline(*videos, fps=fps))


@dataclasses.dataclass(frozen=True)
class Inline:
    """What a notebook displays, in the type that it is stored as."""

    mime_type: str
    """`image/png` or `text/html`."""
    data: str
    """base64 of the picture, or HTML."""
    description: str
    """What terminals show instead."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""

    def __repr__(self) -> str:
        return self.description

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        """Data and metadata by type, as IPython asks for them."""
        size = {"width": self.width, "height": self.height}
        metadata = {self.mime_type: size} if self.mime_type == "image/png" else {}
        return {self.mime_type: self.data, "text/plain": self.description}, metadata


def inline(*videos: VideoLike, fps: float = 8.0) -> Inline:
    """What `show` displays."""
    if not 0 < fps < math.inf:
        raise UserError(f"fps must be above 0, not {fps}.")
    frames = _arranged([_pixels(video) for video in videos])
    small = frames.nbytes <= _LARGEST_PICTURE
    _, height, width, _ = frames.shape
    zoom = max(1, min(_HEIGHT // height, _WIDTH // width))
    frames = frames.repeat(zoom, axis=1).repeat(zoom, axis=2)
    count, height, width, _ = frames.shape
    what = f"{count} frame{'s' * (count != 1)} of {width} x {height} pixels"
    if small:
        picture = base64.b64encode(_png(frames, fps)).decode()
        return Inline("image/png", picture, f"<{what}>", width, height)
    video = base64.b64encode(_webm(frames, fps)).decode()
    page = (
        f'<video width="{width}" height="{height}" style="max-width: 100%; height: auto" '
        f'controls loop autoplay muted playsinline title="{what}">'
        f'<source type="video/webm" src="data:video/webm;base64,{video}"></video>'
    )
    return Inline("text/html", page, f"<{what}>", width, height)


def _pixels(given: VideoLike) -> np.ndarray:
    """A video as uint8 (b, t, h, w, 3)."""
    if getattr(given, "ndim", None) == 4:
        given = given[None]
    video = np.asarray(video_array(given))
    if video.dtype != np.uint8 and not np.isfinite(video).all():
        raise UserError("the video holds NaN or infinity, which have no color.")
    return np.asarray(to_uint8(video)) if video.dtype != np.uint8 else video


def _arranged(videos: list[np.ndarray]) -> np.ndarray:
    """Videos beside each other, the clips of each below each other, as one: (t, h, w, 3)."""
    if not videos:
        raise UserError("show needs a video.")
    count = max(video.shape[1] for video in videos)
    shapes = np.asarray([video.shape for video in videos])
    rows, (height, width) = shapes[:, 0].max(), shapes[:, 2:4].max(axis=0)
    step_y, step_x = height + _GAP, width + _GAP
    size = (count, rows * step_y - _GAP, len(videos) * step_x - _GAP, 3)
    page = np.full(size, 255, np.uint8)
    for x, video in enumerate(videos):
        _, t, h, w, _ = video.shape
        # With 1 + kn frames, frame i of 1 + n stands for the k frames up to frame k i.
        numbers = -(-np.arange(count) * (t - 1) // max(count - 1, 1))
        for y, clip in enumerate(video):
            top, left = y * step_y, x * step_x
            page[:, top : top + h, left : left + w] = clip[numbers]
    return page


def _png(frames: np.ndarray, fps: float) -> bytes:
    """A PNG file, which is animated where there are several frames."""
    first, *others = map(Image.fromarray, frames)
    file = io.BytesIO()
    first.save(file, "PNG", save_all=True, append_images=others, duration=1000 / fps, loop=0)
    return file.getvalue()


def _webm(frames: np.ndarray, fps: float) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.webm"
        write_webm(path, frames, fps=fps)
        return path.read_bytes()

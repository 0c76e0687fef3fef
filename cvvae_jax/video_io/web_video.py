"""Writes short clips that every browser plays: VP9 in WebM, without H.264's licenses."""

from collections.abc import Iterable
from fractions import Fraction
from numbers import Rational
from pathlib import Path

import av
import numpy as np

from cvvae_jax.errors import UserError
from cvvae_jax.resumable.files import written_aside
from cvvae_jax.video_io.containers import reason, require_shape, require_suffix
from cvvae_jax.video_io.display import STANDARD
from cvvae_jax.video_io.video_writer import YuvConverter, state_colors

_QUALITY = 30  # libvpx's crf, of 0 (best) to 63: about 35 dB, 15 KB a frame of 768 x 256
# One thread, and a container without a random number, so that equal frames give equal bytes.
_OPTIONS = {"crf": str(_QUALITY), "b": "0", "deadline": "good", "cpu-used": "4", "threads": "1"}
_CONTAINER_OPTIONS = {"fflags": "+bitexact"}


def write_webm(path: str | Path, frames: Iterable[np.ndarray], *, fps: Rational | float) -> None:
    """Write frames as a video for a web page; colors have half the resolution (4:2:0).

    Args:
        path: file to write, with the suffix .webm; it gets its name when it is complete.
        frames: uint8 RGB arrays (height, width, 3), all of one size, at least one.
        fps: frames per second.

    Raises:
        UserError: the suffix is another, there is no frame, frames differ in size, or the file
            cannot be written.
    """
    path = Path(path)
    require_suffix(path, (".webm",))
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise UserError(f"{path} was not written: there was no frame to write.")
    try:
        with (
            written_aside(path) as aside,
            av.open(str(aside), "w", container_options=_CONTAINER_OPTIONS) as container,
        ):
            _write(container, first, frames, fps=Fraction(fps).limit_denominator(1000), path=path)
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(f"{path} cannot be written: {reason(error)}.") from error


def _write(container, first: np.ndarray, others: Iterable, *, fps: Fraction, path: Path) -> None:
    stream = container.add_stream("libvpx-vp9", rate=fps, options=_OPTIONS)
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = "yuv420p"
    state_colors(stream.codec_context, STANDARD)
    convert = YuvConverter(*first.shape[:2], stream.pix_fmt)
    for number, frame in enumerate((first, *others)):
        require_shape(path, frame.shape, first.shape)
        picture = convert(frame)
        picture.pts, picture.time_base = number, 1 / fps
        container.mux(stream.encode(picture))
    container.mux(stream.encode())

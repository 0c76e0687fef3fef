"""What `decode` and `reconstruct` write: a video or an image, and a line that sums it up."""

import contextlib
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from cvvae_jax.cli.codec_options import is_writer
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.containers import WRITABLE_IMAGE_SUFFIXES, WRITABLE_VIDEO_SUFFIXES
from cvvae_jax.video_io.display import Display
from cvvae_jax.video_io.images import write_image
from cvvae_jax.video_io.times import Times
from cvvae_jax.video_io.video_writer import VideoWriter, begun_path


def require_target(source: Path, target: Path, *, image: bool) -> None:
    """Raise UserError unless a file to write has a suffix for what comes of `source`."""
    kind, suffixes = "a video", WRITABLE_VIDEO_SUFFIXES
    if image:
        kind, suffixes = "an image", WRITABLE_IMAGE_SUFFIXES
    if target.suffix.lower() not in suffixes:
        raise UserError(
            f"{source} is {kind}, so the file to write must end in one of "
            f"{', '.join(suffixes)}, not {target.name}."
        )


@contextlib.contextmanager
def video_output(
    target: Path,
    *,
    image: bool,
    times: Times,
    height: int,
    width: int,
    display: Display,
    audio_from: Path | None = None,
    overwrite: bool,
) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that writes a frame.

    What was written before Ctrl-C or an error stays as a whole video, and the message says so.
    """
    if not is_writer():
        yield lambda frame: None
        return
    if image:
        yield lambda frame: write_image(target, frame)
        return
    if overwrite:  # what a killed run has left
        begun_path(target).unlink(missing_ok=True)
    writer = VideoWriter(
        target,
        times=times,
        height=height,
        width=width,
        display=display,
        audio_from=audio_from,
        keep_begun=True,
    )
    try:
        with writer:
            yield writer.write
    except (KeyboardInterrupt, Exception) as error:
        if writer.frames_kept:
            kept = f"{target} holds the first {counted_frames(writer.frames_kept)}."
        elif writer.begun:
            kept = f"{writer.begun} holds what could be written."
        else:
            raise
        if not isinstance(error, (KeyboardInterrupt, UserError)):
            error.add_note(kept)  # which a traceback ends with
            raise
        raise type(error)(f"{error} {kept}".strip()) from error


def counted_frames(number: int) -> str:
    """1 frame, 2 frames."""
    return f"{number} frame{'s' * (number != 1)}"


def speed(frames: int, seconds: float) -> str:
    """How long a command took, and the most memory that it ever held on the host."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    return (
        f"{seconds:.1f} s with compilation, {frames / seconds:.2f} frames/s; "
        f"peak memory {peak:.2f} GiB"
    )

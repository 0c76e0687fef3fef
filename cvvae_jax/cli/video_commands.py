"""What `encode`, `decode` and `reconstruct` share: arguments, codec, checks, progress, output."""

import contextlib
import dataclasses
import os
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from cvvae_jax.cli.program import track
from cvvae_jax.compiling import Stopwatch
from cvvae_jax.config import DType
from cvvae_jax.errors import UserError
from cvvae_jax.resumable.files import require_vacant
from cvvae_jax.video_io.containers import WRITABLE_IMAGE_SUFFIXES, WRITABLE_VIDEO_SUFFIXES
from cvvae_jax.video_io.display import Display
from cvvae_jax.video_io.images import write_image
from cvvae_jax.video_io.times import Times
from cvvae_jax.video_io.video import VideoInfo
from cvvae_jax.video_io.video_writer import VideoWriter, begun_path, remove_begun

if TYPE_CHECKING:
    from cvvae_jax.codec.codec import Codec


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecArguments:
    """Arguments that `encode`, `decode` and `reconstruct` share."""

    weights: Path
    """Run folder, checkpoint, saved model or PyTorch weights of a video VAE or an image VAE."""
    config: Path | None = None
    """Official config.json of PyTorch weights, where it is not in their folder."""
    prefix: str | None = None
    """Prefix of the model's parameter names in a PyTorch file that holds several models."""
    dtype: DType | None = None
    """Type of parameters and computation; default: as stored, and float32 for PyTorch weights."""
    chunk_frames: int = 16
    """Frames from the start of a chunk to the start of the next, a multiple of the model's temporal
    compression."""
    tile: int | Literal["auto", "whole"] = "auto"
    """Height and width in pixels of the tiles that larger frames are cut into (576 in the official
    code); `whole`: never cut frames; `auto`: cut frames that don't fit into memory."""
    batch: int | None = None
    """Chunks or tiles that a device takes at once; default: as many as keep it busy."""
    split_rows: int | None = None
    """Devices that share the rows of a chunk; default: 1, or as many as its memory needs."""
    memory: float | None = None
    """GiB that may be used on each device; default: what is free."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace a file that is there already, once the new one is complete."""
    plan: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only print how the video would be cut, and how much memory it would need."""
    distributed: tyro.conf.FlagCreatePairsOff[bool] = False
    """This process is one of several that share the video; the first one writes. They find each
    other as processes of `train` do."""


def open_codec(arguments: CodecArguments) -> "Codec":
    """Load the model and make its codec, which logs what it compiles.

    Raises:
        UserError: there is no such model, or an argument does not suit it.
    """
    from cvvae_jax.codec.codec import Codec
    from cvvae_jax.loading import load
    from cvvae_jax.models.autoencoder import VAE

    vae = load(
        arguments.weights, dtype=arguments.dtype, prefix=arguments.prefix, config=arguments.config
    )
    if not isinstance(vae, VAE):
        raise UserError(
            f"{arguments.weights} holds {type(vae).__name__}, not VideoVAE, ImageVAE or SVDVAE."
        )
    memory = None if arguments.memory is None else int(arguments.memory * 2**30)
    return Codec(
        vae,
        chunk_frames=arguments.chunk_frames,
        tile=arguments.tile,
        batch=arguments.batch,
        split_rows=arguments.split_rows,
        memory=memory,
    )


def is_writer() -> bool:
    """Whether this process writes files and messages: the first of several processes does."""
    import jax

    return jax.process_index() == 0


def print_devices() -> None:
    """Print on stderr which devices are used."""
    import jax

    if not is_writer():
        return
    kinds = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    print(f"Devices: {jax.device_count()} x {kinds}", file=sys.stderr, flush=True)


def track_frames(frames: Iterable[Any], *, total: int | None) -> Iterator[Any]:
    """Yield frames, or pairs of frames, while the writer shows the progress."""
    return track(frames, total=total, unit="frames") if is_writer() else iter(frames)


def print_plan(
    codec: "Codec", *directions: str, frames: int | None, height: int, width: int
) -> None:
    """Print how a video would be encoded or decoded.

    Raises:
        UserError: no plan fits into memory, or the video is too small.
    """
    for direction in directions:
        plan = codec.plan(direction, frames=frames, height=height, width=width)
        print(f"{direction}\n  " + "\n  ".join(plan.describe(frames=frames)))


def check_paths(arguments: CodecArguments, source: Path, target: Path) -> None:
    """Raise UserError unless the source can be read and the target can be written."""
    # Unlike a Path's methods, these functions take a name that is too long for that of no file.
    if os.path.isdir(source):
        raise UserError(f"{source} is a folder; name a file to read.")
    if not os.path.isfile(source):
        raise UserError(f"{source}: no such file.")
    if os.path.exists(target) and os.path.samefile(source, target):
        raise UserError(f"{target} is the input file; name another file to write.")
    begun = begun_path(target)
    if begun.exists() and os.path.samefile(source, begun):
        raise UserError(
            f"{source} has the name of the temporary file of {target}; rename it, or name another "
            "file to write."
        )
    if not os.path.isdir(target.parent):
        raise UserError(f"{target} cannot be written: there is no folder {target.parent}.")
    if os.path.isdir(target):
        raise UserError(f"{target} is a folder; name a file to write.")
    # Only the writer looks: it may have begun to write before the other processes look.
    if not arguments.plan and (not arguments.distributed or is_writer()):
        require_vacant(target, overwrite=arguments.overwrite)
        if target.suffix.lower() in WRITABLE_VIDEO_SUFFIXES:
            require_vacant(begun, overwrite=arguments.overwrite)


def check_size(codec: "Codec", info: VideoInfo) -> None:
    """Raise UserError if a video is smaller than one latent."""
    smallest = codec.vae.config.spatial_compression
    if min(info.height, info.width) < smallest:
        raise UserError(
            f"{info.path} has {info.width}x{info.height} pixels; "
            f"this model needs {smallest}x{smallest} at least."
        )


def require_target(source: Path, target: Path, *, image: bool) -> None:
    """Raise UserError unless the target's suffix suits the image or the video of `source`."""
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
    """Open a video or an image to write, and give a function that writes a frame.

    After Ctrl-C or an error, the frames that were written stay as a complete video, and the message
    says so. Processes that don't write get a function that does nothing.
    """
    if not is_writer():
        yield lambda frame: None
        return
    if image:
        yield lambda frame: write_image(target, frame)
        return
    if overwrite:  # the temporary file of a killed process may be there
        remove_begun(target)
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
            error.add_note(kept)  # a traceback ends with it
            raise
        raise type(error)(f"{error} {kept}".strip()) from error


def counted_frames(number: int) -> str:
    """A number of frames in words: `1 frame`, `2 frames`."""
    return f"{number} frame{'s' * (number != 1)}"


def speed(frames: int, watch: Stopwatch) -> str:
    """The time and the speed of a command, and its peak memory on the host, in words. The speed is
    that without compiling."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    return (
        f"{watch.seconds():.1f} s, {watch.compiling():.1f} s of them compiling, "
        f"{frames / watch.working():.2f} frames/s; peak memory {peak:.2f} GiB"
    )

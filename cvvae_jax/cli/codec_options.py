"""What `encode`, `decode` and `reconstruct` have in common: the model, and how videos go through
it."""

import dataclasses
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from cvvae_jax.cli.program import track
from cvvae_jax.config import DType
from cvvae_jax.config.places import at_home
from cvvae_jax.errors import UserError
from cvvae_jax.resumable.files import require_vacant
from cvvae_jax.video_io.containers import WRITABLE_VIDEO_SUFFIXES
from cvvae_jax.video_io.video import VideoInfo
from cvvae_jax.video_io.video_writer import begun_path

if TYPE_CHECKING:
    from cvvae_jax.codec.codec import Codec


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecOptions:
    """The model, and how videos go through it."""

    weights: Path
    """Run folder, checkpoint, saved model or PyTorch weights of a video VAE or an image VAE."""
    config: Path | None = None
    """An official config.json, where it does not lie beside PyTorch weights."""
    prefix: str | None = None
    """What stands before the model's names in a PyTorch file that holds several."""
    dtype: DType | None = None
    """Type of parameters and computation; default: as stored, PyTorch weights in float32."""
    chunk_frames: int = 16
    """Frames from a chunk to the next, a multiple of the model's temporal compression."""
    tile: int | Literal["auto", "whole"] = "auto"
    """Height and width in pixels of the tiles that larger frames are cut into, 576 in the official
    code; `whole`: frames are never cut; `auto`: they are where they don't fit into memory."""
    batch: int | None = None
    """Chunks or tiles that a device takes at once; default: as many as keep it busy."""
    split_rows: int | None = None
    """Devices that share the rows of a chunk; default: 1, or as many as its memory asks for."""
    memory: float | None = None
    """GiB of each device that may be used; default: what is free."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace a file that is there already, once the new one is whole."""
    plan: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print how the video would go through the model and what memory that takes, and end."""
    distributed: tyro.conf.FlagCreatePairsOff[bool] = False
    """This is one process of several, which share the video; the first one writes. They find each
    other as those of the command `train` do."""


def open_codec(options: CodecOptions) -> "Codec":
    """The codec of the model; says on stderr what is compiled, and for how long.

    Raises:
        UserError: there is no such model, or a number does not suit it.
    """
    from cvvae_jax.codec.codec import Codec
    from cvvae_jax.loading import load
    from cvvae_jax.models.autoencoder import VAE

    if is_writer():
        _show_compiling()
    keep_compiled_programs()
    vae = load(options.weights, dtype=options.dtype, prefix=options.prefix, config=options.config)
    if not isinstance(vae, VAE):
        raise UserError(
            f"{options.weights} holds a {type(vae).__name__}; a video or image VAE is wanted."
        )
    memory = None if options.memory is None else int(options.memory * 2**30)
    return Codec(
        vae,
        chunk_frames=options.chunk_frames,
        tile=options.tile,
        batch=options.batch,
        split_rows=options.split_rows,
        memory=memory,
    )


def is_writer() -> bool:
    """Whether this process writes files: of several, the first one."""
    import jax

    return jax.process_index() == 0


def say_devices() -> None:
    """Which ones are used, on stderr."""
    import jax

    if not is_writer():
        return
    kinds = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    print(f"Devices: {jax.device_count()} x {kinds}", file=sys.stderr, flush=True)


def track_frames(frames: Iterable[Any], *, total: int | None) -> Iterator[Any]:
    """The frames, or pairs of them; of several processes, the writer shows how far they are."""
    return track(frames, total=total, unit="frames") if is_writer() else iter(frames)


def print_plan(
    codec: "Codec", *directions: str, frames: int | None, height: int, width: int
) -> None:
    """Say how a video would go through the model.

    Raises:
        UserError: no way fits into memory, or the video is too small.
    """
    for direction in directions:
        plan = codec.plan(direction, frames=frames, height=height, width=width)
        print(f"{direction}\n  " + "\n  ".join(plan.describe(frames=frames)))


def check_paths(options: CodecOptions, source: Path, target: Path) -> None:
    """Raise UserError where there is nothing to read or no place to write to."""
    if source.is_dir():
        raise UserError(f"{source} is a folder; name a file to read.")
    if not source.is_file():
        raise UserError(f"{source}: no such file.")
    if target.exists() and os.path.samefile(source, target):
        raise UserError(f"{target} is the input; name another file to write.")
    begun = begun_path(target)
    if begun.exists() and os.path.samefile(source, begun):
        raise UserError(
            f"{source} is where {target} would be written first; rename it or name another file."
        )
    if not target.parent.is_dir():
        raise UserError(f"{target} cannot be written: there is no folder {target.parent}.")
    if target.is_dir():
        raise UserError(f"{target} is a folder; name a file to write.")
    # Of several processes, the first one may have begun to write.
    if not options.plan and (not options.distributed or is_writer()):
        require_vacant(target, overwrite=options.overwrite)
        if target.suffix.lower() in WRITABLE_VIDEO_SUFFIXES:
            require_vacant(begun, overwrite=options.overwrite)


def check_size(codec: "Codec", info: VideoInfo) -> None:
    """Raise UserError where a video is smaller than one latent."""
    smallest = codec.vae.config.spatial_compression
    if min(info.height, info.width) < smallest:
        raise UserError(
            f"{info.path} has {info.width}x{info.height} pixels; "
            f"this model needs {smallest}x{smallest} at least."
        )


class _OnStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


def _show_compiling() -> None:
    log = logging.getLogger("cvvae_jax.codec")
    # Or absl, which Orbax imports, would print it once more.
    log.handlers, log.propagate = [_OnStderr()], False
    log.setLevel(logging.INFO)


def keep_compiled_programs() -> None:
    """Programs are compiled once a machine, unless the user has said where to keep them."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        caches = Path(at_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
        folder = str(caches / "cvvae_jax" / "compiled")
        jax.config.update("jax_compilation_cache_dir", folder)

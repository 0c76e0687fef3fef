"""`python -m cvvae_jax reconstruct IN OUT --weights PATH`: a video or an image through a VAE."""

import contextlib
import dataclasses
import itertools
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from cvvae_jax.cli.progress import track
from cvvae_jax.config import ConfigError
from cvvae_jax.data.video import (
    WRITABLE_IMAGE_SUFFIXES,
    WRITABLE_VIDEO_SUFFIXES,
    VideoInfo,
    VideoWriter,
    probe,
    read_frames,
    write_image,
)


@dataclasses.dataclass(frozen=True)
class Reconstruct:
    """Send a video or an image through a VAE and write what comes back.

    The output has the input's frames, size and frame rate, and its audio. Any frame count and any
    size from 8 x 8 pixels up will do, in constant memory. PSNR is that of the 8-bit frames before
    they are written, from the mean squared error of each frame, then averaged over frames.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """Video or image to read."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """File to write: .mp4, .mkv or .mov for a video, .png, .jpg, .jpeg or .webp for an image."""
    weights: Path
    """Run folder, checkpoint, saved model or PyTorch weights of a video VAE or an image VAE."""
    side_by_side: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write input and reconstruction next to each other, which doubles the width."""
    sample: tyro.conf.FlagCreatePairsOff[bool] = False
    """Draw the latents from the posterior; else they are its mode."""
    seed: int = 0
    """Seed of the draw."""
    chunk_frames: int = 16
    """Frames from a chunk to the next, a multiple of the model's temporal compression."""
    tile: int = 576
    """Height and width in pixels of the tiles that larger frames are cut into."""


def main(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: an argument or a file cannot be used.
        SystemExit: the arguments are malformed, or help was asked for.
    """
    options = tyro.cli(Reconstruct, args=arguments, prog="python -m cvvae_jax reconstruct")
    _check_names(options.source, options.target)
    info = probe(options.source)
    _check_suffix(options, info)
    # Imported here, so that help and a wrong name are answered without starting jax.
    from cvvae_jax.codec.codec import Codec
    from cvvae_jax.loading import load
    from cvvae_jax.models.autoencoder import VAE

    vae = load(options.weights)
    if not isinstance(vae, VAE):
        raise ConfigError(
            f"{options.weights} holds a {type(vae).__name__}; a video or image VAE is wanted."
        )
    codec = Codec(vae, chunk_frames=options.chunk_frames, tile=options.tile)
    _check_size(info, smallest=codec.vae.config.spatial_compression)
    with _writer(options, info) as write:
        _reconstruct(options, info, codec, write)


def _check_names(source: Path, target: Path) -> None:
    if not source.is_file():
        raise ConfigError(f"{source}: no such file.")
    if target.exists() and os.path.samefile(source, target):
        raise ConfigError(f"{target} is the input; name another file to write.")
    if not target.parent.is_dir():
        raise ConfigError(f"{target} cannot be written: there is no folder {target.parent}.")
    if target.is_dir():
        raise ConfigError(f"{target} is a folder; name a file to write.")


def _check_size(info: VideoInfo, *, smallest: int) -> None:
    if min(info.height, info.width) < smallest:
        raise ConfigError(
            f"{info.path} has {info.width}x{info.height} pixels; "
            f"this model needs {smallest}x{smallest} at least."
        )


def _check_suffix(options: Reconstruct, info: VideoInfo) -> None:
    kind, suffixes = "a video", WRITABLE_VIDEO_SUFFIXES
    if info.is_image:
        kind, suffixes = "an image", WRITABLE_IMAGE_SUFFIXES
    if options.target.suffix.lower() not in suffixes:
        raise ConfigError(
            f"{options.source} is {kind}, so the file to write must end in one of "
            f"{', '.join(suffixes)}, not {options.target.name}."
        )


@contextlib.contextmanager
def _writer(options: Reconstruct, info: VideoInfo) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that writes a frame; the file is there at the end, or not at all."""
    if info.is_image:
        yield lambda frame: write_image(options.target, frame)
        return
    width = info.width * (2 if options.side_by_side else 1)
    with VideoWriter(
        options.target,
        fps=info.fps,
        height=info.height,
        width=width,
        audio_from=options.source if info.has_audio else None,
    ) as writer:
        yield writer.write


def _reconstruct(options: Reconstruct, info: VideoInfo, codec, write: Callable) -> None:
    import jax

    from cvvae_jax.codec.stream import reconstruct_frames

    key = jax.random.key(options.seed) if options.sample else None
    kept, frames = itertools.tee(read_frames(options.source))  # holds what the codec has read ahead
    recons = reconstruct_frames(codec, frames, key=key)
    device = jax.devices()[0].device_kind
    print(f"Device: {device}. The model is compiled first.", file=sys.stderr, flush=True)
    start, psnrs = time.monotonic(), []
    pairs = zip(kept, recons, strict=True)
    for frame, recon in track(pairs, total=info.frames, unit="frames"):
        write(np.concatenate([frame, recon], axis=1) if options.side_by_side else recon)
        psnrs.append(_psnr(frame, recon))
    shape = codec.latents_shape(frames=len(psnrs), height=info.height, width=info.width)
    seconds = time.monotonic() - start
    print(_summary(options, info, psnrs=psnrs, seconds=seconds, latents_shape=shape))


def _summary(
    options: Reconstruct,
    info: VideoInfo,
    *,
    psnrs: list[float],
    seconds: float,
    latents_shape: tuple[int, ...],
) -> str:
    frames = f"{len(psnrs)} frame{'s' * (len(psnrs) > 1)}"
    doubled = ", beside the input (twice the width)" if options.side_by_side else ""
    return (
        f"{options.target}: {frames} of {info.width}x{info.height}{doubled}; "
        f"{seconds:.1f} s with compilation, {len(psnrs) / seconds:.2f} frames/s; "
        f"PSNR {np.mean(psnrs):.2f} dB (mean over frames); "
        f"latents {latents_shape} (n, y, x, z); peak memory {_peak_gib():.2f} GiB"
    )


def _psnr(frame: np.ndarray, recon: np.ndarray) -> float:
    error = float(np.mean(np.square(frame.astype(np.float32) - recon)))
    return 10 * math.log10(255**2 / error) if error else math.inf


def _peak_gib() -> float:
    """The most memory this process ever held on the host."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

"""`python -m cvvae_jax reconstruct IN OUT --weights PATH`: a video or an image through a VAE."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from cvvae_jax.cli.codec_options import (
    CodecOptions,
    check_paths,
    check_size,
    open_codec,
    print_plan,
    say_devices,
    track_frames,
)
from cvvae_jax.cli.program import program
from cvvae_jax.cli.video_output import counted_frames, require_target, speed, video_output
from cvvae_jax.errors import visible
from cvvae_jax.video_io.frame_index import read_times
from cvvae_jax.video_io.video import VideoInfo, probe, read_frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruct(CodecOptions):
    """Send a video or an image through a VAE and write what comes back.

    The output has the input's frames, their times and size, and its audio. Any frame count and any
    size from 8 x 8 pixels up will do, in constant memory; Ctrl-C leaves a video of what was done.
    PSNR is that of the 8-bit frames before they are written, from the mean squared error of each
    frame, then averaged over frames.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """Video or image to read."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """File to write: .mp4, .mkv or .mov for a video, .png, .jpg, .jpeg or .webp for an image."""
    side_by_side: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write input and reconstruction next to each other, which doubles the width."""
    sample: tyro.conf.FlagCreatePairsOff[bool] = False
    """Draw the latents from the posterior; else they are its mode."""
    seed: int = 0
    """Seed of the draw."""


def main(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an argument or a file cannot be used.
        SystemExit: the arguments are malformed, or help was asked for.
    """
    options = tyro.cli(Reconstruct, args=arguments, prog=program("reconstruct"))
    check_paths(options, options.source, options.target)
    info = probe(options.source)
    require_target(options.source, options.target, image=info.is_image)
    codec = open_codec(options)
    check_size(codec, info)
    if options.plan:
        print_plan(
            codec, "encode", "decode", frames=info.frames, height=info.height, width=info.width
        )
        return
    with video_output(
        options.target,
        image=info.is_image,
        times=read_times(options.source),
        height=info.height,
        width=info.width * (2 if options.side_by_side else 1),
        display=info.display,
        audio_from=options.source if info.has_audio else None,
        overwrite=options.overwrite,
    ) as write:
        _reconstruct(options, info, codec, write)


def _reconstruct(options: Reconstruct, info: VideoInfo, codec, write: Callable) -> None:
    import jax

    from cvvae_jax.codec.stream import reconstruct_frames

    key = jax.random.key(options.seed) if options.sample else None
    kept, frames = itertools.tee(read_frames(options.source))  # holds what the codec has read ahead
    recons = reconstruct_frames(codec, frames, key=key)
    say_devices()
    start, psnrs = time.monotonic(), []
    pairs = zip(kept, recons, strict=True)
    for frame, recon in track_frames(pairs, total=info.frames):
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
    doubled = ", beside the input (twice the width)" if options.side_by_side else ""
    return (
        f"{visible(str(options.target))}: {counted_frames(len(psnrs))} of "
        f"{info.width}x{info.height}{doubled}; "
        f"PSNR {np.mean(psnrs):.2f} dB (mean over frames); "
        f"latents {latents_shape} (n, y, x, z); {speed(len(psnrs), seconds)}"
    )


def _psnr(frame: np.ndarray, recon: np.ndarray) -> float:
    error = float(np.mean(np.square(frame.astype(np.float32) - recon)))
    return 10 * math.log10(255**2 / error) if error else math.inf

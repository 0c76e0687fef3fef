"""The command `reconstruct`: encodes and decodes a video or an image, and measures PSNR."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from cvvae_jax.arguments import parse
from cvvae_jax.cli.program import program
from cvvae_jax.cli.video_commands import (
    CodecArguments,
    check_paths,
    check_size,
    counted_frames,
    open_codec,
    print_devices,
    print_plan,
    require_target,
    speed,
    track_frames,
    video_output,
)
from cvvae_jax.compiling import Stopwatch
from cvvae_jax.errors import visible
from cvvae_jax.video_io.frame_index import read_times
from cvvae_jax.video_io.video import VideoInfo, probe, read_frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructArguments(CodecArguments):
    """Encode and decode a video or an image, and write the reconstruction.

    The output has the frame count, frame times, size and audio of the input. The video may have any
    number of frames and any size from 8 x 8 pixels up; memory does not grow with its length. After
    Ctrl-C the file is a video of the frames so far. PSNR is measured on 8-bit frames before they
    are written, from the mean squared error of each frame, and averaged over frames.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """Video or image to read."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """File to write: .mp4, .mkv or .mov for a video, .png, .jpg, .jpeg or .webp for an image."""
    side_by_side: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write input and reconstruction next to each other, which doubles the width."""
    sample: tyro.conf.FlagCreatePairsOff[bool] = False
    """Sample the latents from the posterior, in place of its mode."""
    seed: int = 0
    """Seed of the sample."""


def main(command_line: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an argument or a file cannot be used.
        SystemExit: the arguments are malformed, or help was asked for.
    """
    arguments = parse(ReconstructArguments, command_line, prog=program("reconstruct"))
    check_paths(arguments, arguments.source, arguments.target)
    info = probe(arguments.source)
    require_target(arguments.source, arguments.target, image=info.is_image)
    codec = open_codec(arguments)
    check_size(codec, info)
    if arguments.plan:
        print_plan(
            codec, "encode", "decode", frames=info.frames, height=info.height, width=info.width
        )
        return
    with video_output(
        arguments.target,
        image=info.is_image,
        times=read_times(arguments.source),
        height=info.height,
        width=info.width * (2 if arguments.side_by_side else 1),
        display=info.display,
        audio_from=arguments.source if info.has_audio else None,
        overwrite=arguments.overwrite,
    ) as write:
        _reconstruct(arguments, info, codec, write)


def _reconstruct(arguments: ReconstructArguments, info: VideoInfo, codec, write: Callable) -> None:
    import jax

    from cvvae_jax.codec.stream import reconstruct_frames

    key = jax.random.key(arguments.seed) if arguments.sample else None
    # `tee` keeps the frames that the codec has read ahead.
    kept, frames = itertools.tee(read_frames(arguments.source))
    recons = reconstruct_frames(codec, frames, key=key)
    print_devices()
    watch, psnrs = Stopwatch(), []
    pairs = zip(kept, recons, strict=True)
    for frame, recon in track_frames(pairs, total=info.frames):
        write(np.concatenate([frame, recon], axis=1) if arguments.side_by_side else recon)
        psnrs.append(_psnr(frame, recon))
    shape = codec.latents_shape(frames=len(psnrs), height=info.height, width=info.width)
    timed = speed(len(psnrs), watch)
    print(_summary(arguments, info, psnrs=psnrs, timed=timed, latents_shape=shape))


def _summary(
    arguments: ReconstructArguments,
    info: VideoInfo,
    *,
    psnrs: list[float],
    timed: str,
    latents_shape: tuple[int, ...],
) -> str:
    doubled = ", beside the input (twice the width)" if arguments.side_by_side else ""
    return (
        f"{visible(str(arguments.target))}: {counted_frames(len(psnrs))} of "
        f"{info.width}x{info.height}{doubled}; "
        f"PSNR {np.mean(psnrs):.2f} dB (mean over frames); "
        f"latents {latents_shape} (n, y, x, z); {timed}"
    )


def _psnr(frame: np.ndarray, recon: np.ndarray) -> float:
    error = float(np.mean(np.square(frame.astype(np.float32) - recon)))
    return 10 * math.log10(255**2 / error) if error else math.inf

"""The command `decode`: writes the video or the image of latents."""

import dataclasses
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from cvvae_jax.arguments import parse
from cvvae_jax.cli.program import program
from cvvae_jax.cli.video_commands import (
    CodecArguments,
    check_paths,
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
from cvvae_jax.config.latent_scale import in_words, latent_scale
from cvvae_jax.errors import UserError, visible
from cvvae_jax.video_io.times import Times, as_fraction


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeArguments(CodecArguments):
    """Write the video or the image of latents.

    It has the frame count and the size of the encoded video. Memory does not grow with its length.
    After Ctrl-C the file is a video of the frames so far. Files of other programs can be decoded,
    too, if they have an array `latents` (n, y, x, z).
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """Latents: a .safetensors or .npz file."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """File to write: .mp4, .mkv or .mov for a video, .png, .jpg, .jpeg or .webp for an image."""
    mode: Literal["video", "image"] = "video"
    """`image` decodes each latent frame alone, to one frame; the duration stays. Use it with an
    image VAE that shares the latent space of the video VAE."""
    fps: str | None = None
    """Frames per second of the video, such as 25 or 30000/1001; default: the times that the file
    states."""
    scaled: tyro.conf.FlagCreatePairsOff[bool] = False
    """The latents are scaled for diffusion models; not needed for files that state it."""


def main(command_line: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an argument or a file cannot be used.
        SystemExit: the arguments are malformed, or help was asked for.
    """
    arguments = parse(DecodeArguments, command_line, prog=program("decode"))
    check_paths(arguments, arguments.source, arguments.target)
    from cvvae_jax.latents.file import open_latents

    file = open_latents(arguments.source)
    require_target(arguments.source, arguments.target, image=_is_image(file))
    codec = open_codec(arguments)
    metadata = file.metadata or _assumed(file, codec, arguments)
    alone = arguments.mode == "image"
    _check(file, metadata, codec, alone=alone, scaled=arguments.scaled)
    if arguments.plan:
        if alone:
            print(f"{file.shape[0]} latent frames, each alone:")
        frames = 1 if alone else metadata.frames
        print_plan(codec, "decode", frames=frames, height=metadata.height, width=metadata.width)
        return
    _decode(arguments, file, metadata, codec)


def _is_image(file) -> bool:
    return file.metadata.image if file.metadata else file.shape[0] == 1


def _assumed(file, codec, arguments: DecodeArguments):
    """The metadata of a file from another program: all frames and pixels of its latents."""
    from cvvae_jax.latents.file import LatentsMetadata

    n, y, x, _ = file.shape
    space = codec.vae.config.spatial_compression
    frames = 1 + (n - 1) * codec.vae.temporal_compression
    return LatentsMetadata(
        frames=frames, height=y * space, width=x * space, scaled=arguments.scaled
    )


def _check(file, metadata, codec, *, alone: bool, scaled: bool) -> None:
    wanted = codec.latents_shape(
        frames=metadata.frames, height=metadata.height, width=metadata.width
    )
    # Latent frames that are decoded alone may be of a video VAE, while this model is an image VAE,
    # with a latent frame for every frame.
    if file.shape[alone:] != wanted[alone:]:
        raise UserError(
            f"{file.path} holds latents {file.shape}; this model's latents of {metadata.frames} "
            f"frames of {metadata.width}x{metadata.height} are {wanted} (n, y, x, z)."
        )
    if scaled and not metadata.scaled:
        raise UserError(f"{file.path} states that its latents are unscaled: leave out --scaled.")
    known = None not in (metadata.scaling_factor, metadata.shift_factor)
    if metadata.scaled and known and latent_scale(metadata) != latent_scale(codec.vae.config):
        raise UserError(
            f"{file.path} was scaled as {in_words(metadata)}, but this model scales as "
            f"{in_words(codec.vae.config)}: it is not the one that encoded it."
        )


def _times(arguments: DecodeArguments, file, metadata, codec) -> Times:
    """The times of the frames of the video that is written."""
    if arguments.fps is not None:
        return Times(_rate(arguments.fps))
    fps = metadata.fps or ("1" if _is_image(file) else None)
    if fps is None:
        raise UserError(f"{file.path} doesn't state its frames per second: give --fps.")
    times = metadata.shown or Times(_rate(fps))
    if arguments.mode == "video":
        return times
    latent_frames = file.shape[0]
    own, *_ = codec.latents_shape(
        frames=metadata.frames, height=metadata.height, width=metadata.width
    )
    if own == latent_frames:
        stride = codec.vae.temporal_compression
        numbers = np.minimum(np.arange(latent_frames) * stride, metadata.frames - 1)
        return times.taken(numbers, times.rate / stride)
    numbers = np.linspace(0, metadata.frames - 1, latent_frames).round().astype(int)
    return times.taken(numbers, times.rate * latent_frames / metadata.frames)


def _rate(fps: str) -> Fraction:
    try:
        rate = as_fraction(fps)
    except ValueError:
        rate = Fraction(0)
    if rate <= 0:
        raise UserError(f"fps must be a positive number or fraction, not {fps}.")
    return rate


def _decode(arguments: DecodeArguments, file, metadata, codec) -> None:
    from cvvae_jax.codec.stream import decode_frames

    count = metadata.frames if arguments.mode == "video" else file.shape[0]
    times = _times(arguments, file, metadata, codec)
    parts = file.parts()
    if metadata.scaled or arguments.scaled:
        parts = (np.asarray(codec.vae.unscale(part[None]))[0] for part in parts)
    print_devices()
    watch = Stopwatch()
    with video_output(
        arguments.target,
        image=_is_image(file),
        times=times,
        height=metadata.height,
        width=metadata.width,
        display=metadata.display,
        overwrite=arguments.overwrite,
    ) as write:
        frames = decode_frames(
            codec, parts, height=metadata.height, width=metadata.width, mode=arguments.mode
        )
        for frame in track_frames(itertools.islice(frames, count), total=count):
            write(frame)
    print(
        f"{visible(str(arguments.target))}: {counted_frames(count)} of "
        f"{metadata.width}x{metadata.height}; {speed(count, watch)}"
    )

"""`python -m cvvae_jax decode IN OUT --weights PATH`: the video or image of latents."""

import dataclasses
import itertools
import time
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from cvvae_jax.cli.program import program
from cvvae_jax.cli.video_commands import (
    CodecArguments,
    check_paths,
    counted_frames,
    open_codec,
    print_plan,
    require_target,
    say_devices,
    speed,
    track_frames,
    video_output,
)
from cvvae_jax.config.latent_scale import in_words, latent_scale
from cvvae_jax.errors import UserError, visible
from cvvae_jax.video_io.times import Times, as_fraction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decode(CodecArguments):
    """Write the video or the image of latents.

    It has the frames and the size of what was encoded, in constant memory (safetensors; npz files
    are read as a whole). Ctrl-C leaves a video of what was done. Latents from elsewhere will do
    too: an array `latents` (n, y, x, z).
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """Latents: a .safetensors or .npz file."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """File to write: .mp4, .mkv or .mov for a video, .png, .jpg, .jpeg or .webp for an image."""
    mode: Literal["video", "image"] = "video"
    """`image` decodes each latent frame alone, to one frame; the video lasts as long. For image
    VAEs, whose latents a video VAE's are, too."""
    fps: str | None = None
    """Frames per second of the video, such as 25 or 30000/1001; default: the times of its frames,
    as the file says them."""
    scaled: tyro.conf.FlagCreatePairsOff[bool] = False
    """The latents are as diffusion models see them; not needed where the file says so."""


def main(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an argument or a file cannot be used.
        SystemExit: the arguments are malformed, or help was asked for.
    """
    options = tyro.cli(Decode, args=arguments, prog=program("decode"))
    check_paths(options, options.source, options.target)
    from cvvae_jax.latents.file import open_latents

    file = open_latents(options.source)
    require_target(options.source, options.target, image=_is_image(file))
    codec = open_codec(options)
    metadata = file.metadata or _assumed(file, codec, options)
    alone = options.mode == "image"
    _check(file, metadata, codec, alone=alone, scaled=options.scaled)
    if options.plan:
        if alone:
            print(f"{file.shape[0]} latent frames, each alone:")
        frames = 1 if alone else metadata.frames
        print_plan(codec, "decode", frames=frames, height=metadata.height, width=metadata.width)
        return
    _decode(options, file, metadata, codec)


def _is_image(file) -> bool:
    return file.metadata.image if file.metadata else file.shape[0] == 1


def _assumed(file, codec, options: Decode):
    """What a file from elsewhere doesn't say."""
    from cvvae_jax.latents.file import LatentsMetadata

    n, y, x, _ = file.shape
    space = codec.vae.config.spatial_compression
    frames = 1 + (n - 1) * codec.vae.temporal_compression
    return LatentsMetadata(frames=frames, height=y * space, width=x * space, scaled=options.scaled)


def _check(file, metadata, codec, *, alone: bool, scaled: bool) -> None:
    wanted = codec.latents_shape(
        frames=metadata.frames, height=metadata.height, width=metadata.width
    )
    # Alone, they may be decoded by an image VAE, which would have made one of every frame.
    if file.shape[alone:] != wanted[alone:]:
        raise UserError(
            f"{file.path} holds latents {file.shape}; this model's of {metadata.frames} frames of "
            f"{metadata.width}x{metadata.height} are {wanted} (n, y, x, z)."
        )
    if scaled and not metadata.scaled:
        raise UserError(f"{file.path} says that its latents are unscaled: leave out --scaled.")
    known = None not in (metadata.scaling_factor, metadata.shift_factor)
    if metadata.scaled and known and latent_scale(metadata) != latent_scale(codec.vae.config):
        raise UserError(
            f"{file.path} was scaled as {in_words(metadata)}, but this model scales as "
            f"{in_words(codec.vae.config)}: it is not the one that encoded it."
        )


def _times(options: Decode, file, metadata, codec) -> Times:
    """Of the video that is written."""
    if options.fps is not None:
        return Times(_rate(options.fps))
    said = metadata.fps or ("1" if _is_image(file) else None)
    if said is None:
        raise UserError(f"{file.path} doesn't say its frames per second: give --fps.")
    times = metadata.shown or Times(_rate(said))
    if options.mode == "video":
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


def _rate(said: str) -> Fraction:
    try:
        rate = as_fraction(said)
    except ValueError:
        rate = Fraction(0)
    if rate <= 0:
        raise UserError(f"fps must be a positive number or fraction, not {said}.")
    return rate


def _decode(options: Decode, file, metadata, codec) -> None:
    from cvvae_jax.codec.stream import decode_frames

    count = metadata.frames if options.mode == "video" else file.shape[0]
    times = _times(options, file, metadata, codec)
    parts = file.parts()
    if metadata.scaled or options.scaled:
        parts = (np.asarray(codec.vae.unscale(part[None]))[0] for part in parts)
    say_devices()
    start = time.monotonic()
    with video_output(
        options.target,
        image=_is_image(file),
        times=times,
        height=metadata.height,
        width=metadata.width,
        display=metadata.display,
        overwrite=options.overwrite,
    ) as write:
        frames = decode_frames(
            codec, parts, height=metadata.height, width=metadata.width, mode=options.mode
        )
        for frame in track_frames(itertools.islice(frames, count), total=count):
            write(frame)
    print(
        f"{visible(str(options.target))}: {counted_frames(count)} of {metadata.width}x{metadata.height}; "
        f"{speed(count, time.monotonic() - start)}"
    )

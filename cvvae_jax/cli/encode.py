"""The command `encode`: writes the latents of a video or an image."""

import dataclasses
from collections import deque
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
    is_writer,
    open_codec,
    print_devices,
    print_plan,
    speed,
    track_frames,
)
from cvvae_jax.compiling import Stopwatch
from cvvae_jax.config.latent_scale import latent_scale
from cvvae_jax.errors import UserError, visible
from cvvae_jax.video_io.frame_index import read_times
from cvvae_jax.video_io.video import VideoInfo, probe, read_frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeArguments(CodecArguments):
    """Write the latents of a video or an image.

    The video may have any number of frames and any size from 8 x 8 pixels up; memory does not grow
    with its length. `decode` gives back as many frames of the same size. After Ctrl-C the file
    holds the latents of the frames so far.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """Video or image to read."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """File to write: .safetensors or .npz, with an array `latents`, float32 (n, y, x, z)."""
    scaled: tyro.conf.FlagCreatePairsOff[bool] = False
    """Scale the latents for diffusion models, as the model's configuration says."""
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
    arguments = parse(EncodeArguments, command_line, prog=program("encode"))
    check_paths(arguments, arguments.source, arguments.target)
    from cvvae_jax.latents.file import require_suffix

    require_suffix(arguments.target)
    info = probe(arguments.source)
    codec = open_codec(arguments)
    check_size(codec, info)
    if arguments.plan:
        print_plan(codec, "encode", frames=info.frames, height=info.height, width=info.width)
        return
    _encode(arguments, info, codec)


def _encode(arguments: EncodeArguments, info: VideoInfo, codec) -> None:
    import jax

    from cvvae_jax.codec.stream import CountedItems, encode_frames
    from cvvae_jax.latents.file import LatentsWriter

    print_devices()
    watch, frames = Stopwatch(), CountedItems(read_frames(arguments.source))
    key = jax.random.key(arguments.seed) if arguments.sample else None
    weights = _weights_sha256(arguments)
    latents = encode_frames(codec, track_frames(frames, total=info.frames), key=key)
    if arguments.scaled:
        latents = (np.asarray(codec.vae.scale(part[None]))[0] for part in latents)
    if not is_writer():
        deque(latents, maxlen=0)
        return
    with LatentsWriter(arguments.target) as writer:
        try:
            for part in latents:
                writer.write(part)
        except (KeyboardInterrupt, UserError) as error:
            if not writer.frames:
                raise
            whole = 1 + (writer.frames - 1) * codec.vae.temporal_compression
            whole = min(whole, frames.count)
            writer.finish(_metadata(arguments, info, codec, frames=whole, weights=weights))
            kept = f"{arguments.target} holds the latents of the first {counted_frames(whole)}."
            raise type(error)(f"{error} {kept}".strip()) from error
        writer.finish(_metadata(arguments, info, codec, frames=frames.count, weights=weights))
    shape = codec.latents_shape(frames=frames.count, height=info.height, width=info.width)
    print(
        f"{visible(str(arguments.target))}: latents {shape} (n, y, x, z) of "
        f"{counted_frames(frames.count)} of {info.width}x{info.height}; "
        f"{speed(frames.count, watch)}"
    )


def _metadata(arguments: EncodeArguments, info: VideoInfo, codec, *, frames: int, weights: str):
    from cvvae_jax.latents.file import LatentsMetadata

    times = read_times(arguments.source)
    if times.count != frames:
        times = times.taken(np.arange(frames), times.rate)
    return LatentsMetadata(
        frames=frames,
        height=info.height,
        width=info.width,
        scaled=arguments.scaled,
        **latent_scale(codec.vae.config),
        fps=str(times.rate),
        times=None if times.is_plain else times.to_json(),
        pixel_aspect=str(info.display.pixel_aspect),
        primaries=info.display.primaries,
        transfer=info.display.transfer,
        image=info.is_image,
        source=arguments.source.name,
        weights_sha256=weights,
        seed=arguments.seed if arguments.sample else None,
        chunk_frames=arguments.chunk_frames,
    )


def _weights_sha256(arguments: CodecArguments) -> str:
    from cvvae_jax.convert.card import sha256
    from cvvae_jax.loading import open_model

    model = open_model(arguments.weights, prefix=arguments.prefix, config=arguments.config)
    return sha256(model.weight_files)

"""`python -m cvvae_jax encode IN OUT --weights PATH`: the latents of a video or an image."""

import dataclasses
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from cvvae_jax.cli.codec_options import (
    CodecOptions,
    check_paths,
    check_size,
    is_writer,
    open_codec,
    print_plan,
    say_devices,
    track_frames,
)
from cvvae_jax.cli.program import program
from cvvae_jax.cli.video_output import counted_frames, speed
from cvvae_jax.config.latent_scale import latent_scale
from cvvae_jax.errors import UserError, visible
from cvvae_jax.video_io.frame_index import read_times
from cvvae_jax.video_io.video import VideoInfo, probe, read_frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encode(CodecOptions):
    """Write the latents of a video or an image.

    Any frame count and any size from 8 x 8 pixels up will do, in constant memory; `decode` gives
    back as many frames of the same size. After Ctrl-C the file holds the latents until then.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """Video or image to read."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """File to write: .safetensors or .npz, with an array `latents`, float32 (n, y, x, z)."""
    scaled: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write them as diffusion models see them: scaled as the model's configuration says."""
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
    options = tyro.cli(Encode, args=arguments, prog=program("encode"))
    check_paths(options, options.source, options.target)
    from cvvae_jax.latents.file import require_suffix

    require_suffix(options.target)
    info = probe(options.source)
    codec = open_codec(options)
    check_size(codec, info)
    if options.plan:
        print_plan(codec, "encode", frames=info.frames, height=info.height, width=info.width)
        return
    _encode(options, info, codec)


def _encode(options: Encode, info: VideoInfo, codec) -> None:
    import jax

    from cvvae_jax.codec.stream import Counted, encode_frames
    from cvvae_jax.latents.file import LatentsWriter

    say_devices()
    start, frames = time.monotonic(), Counted(read_frames(options.source))
    key = jax.random.key(options.seed) if options.sample else None
    weights = _weights_sha256(options)
    latents = encode_frames(codec, track_frames(frames, total=info.frames), key=key)
    if options.scaled:
        latents = (np.asarray(codec.vae.scale(part[None]))[0] for part in latents)
    if not is_writer():
        deque(latents, maxlen=0)
        return
    with LatentsWriter(options.target) as writer:
        try:
            for part in latents:
                writer.write(part)
        except (KeyboardInterrupt, UserError) as error:
            if not writer.frames:
                raise
            whole = 1 + (writer.frames - 1) * codec.vae.temporal_compression
            whole = min(whole, frames.count)
            writer.finish(_facts(options, info, codec, frames=whole, weights=weights))
            kept = f"{options.target} holds the latents of the first {counted_frames(whole)}."
            raise type(error)(f"{error} {kept}".strip()) from error
        writer.finish(_facts(options, info, codec, frames=frames.count, weights=weights))
    shape = codec.latents_shape(frames=frames.count, height=info.height, width=info.width)
    print(
        f"{visible(str(options.target))}: latents {shape} (n, y, x, z) of "
        f"{counted_frames(frames.count)} of {info.width}x{info.height}; "
        f"{speed(frames.count, time.monotonic() - start)}"
    )


def _facts(options: Encode, info: VideoInfo, codec, *, frames: int, weights: str):
    from cvvae_jax.latents.file import Facts

    times = read_times(options.source)
    if times.count != frames:
        times = times.taken(np.arange(frames), times.rate)
    return Facts(
        frames=frames,
        height=info.height,
        width=info.width,
        scaled=options.scaled,
        **latent_scale(codec.vae.config),
        fps=str(times.rate),
        times=None if times.is_plain else times.to_json(),
        pixel_aspect=str(info.display.pixel_aspect),
        primaries=info.display.primaries,
        transfer=info.display.transfer,
        image=info.is_image,
        source=options.source.name,
        weights_sha256=weights,
        seed=options.seed if options.sample else None,
        chunk_frames=options.chunk_frames,
    )


def _weights_sha256(options: CodecOptions) -> str:
    from cvvae_jax.convert.card import sha256
    from cvvae_jax.loading import open_model

    model = open_model(options.weights, prefix=options.prefix, config=options.config)
    return sha256(model.weight_files)

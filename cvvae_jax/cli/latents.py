"""The command `latents`: encodes a data set into shards of latents."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cvvae_jax.arguments import parse
from cvvae_jax.cli.program import program, track
from cvvae_jax.config import DType
from cvvae_jax.config.checks import at_least
from cvvae_jax.config.latent_scale import latent_scale
from cvvae_jax.errors import UserError
from cvvae_jax.latents.dataset_options import LatentsConfig
from cvvae_jax.resumable.share import Share

if TYPE_CHECKING:
    from cvvae_jax.latents.dataset_shard import LatentsEncoder
    from cvvae_jax.latents.dataset_write import UnloadedEncoder


@dataclasses.dataclass(frozen=True)
class LatentsArguments:
    """Encode videos and images into shards of latents, to train other models on.

    Give an interrupted command again to resume it. Several processes share the work if each gets
    its --process-index, on machines that reach SRC and DST. They need not start or end together,
    and their number may change when the command is resumed. The process that ends last writes the
    index and the statistics. `cvvae_jax.LatentsDataset(DST)` reads the latents.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC")]
    """Folder, pattern, list, shards, tar files or tfds:NAME, with videos, images or both."""
    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DST")]
    """Folder for the shards: new, empty, or begun by the same command; a local path or an address
    that fsspec knows."""
    weights: Path
    """Run folder, checkpoint, saved model or PyTorch weights of a video VAE or an image VAE."""
    config: tyro.conf.OmitArgPrefixes[LatentsConfig] = dataclasses.field(
        default_factory=LatentsConfig
    )
    share: tyro.conf.OmitArgPrefixes[Share] = dataclasses.field(default_factory=Share)
    exclude: str | None = None
    """A file of names to leave out, as `data check` writes it."""
    dtype: DType | None = None
    """Type of parameters and computation; default: as stored."""
    chunk_frames: int = 16
    """Frames from the start of a chunk to the start of the next, a multiple of the model's temporal
    compression."""
    tile: int = 576
    """Height and width in pixels of the tiles that larger frames are cut into."""
    readers: int = 4
    """Files that are read at once, in threads; each thread holds the frames of up to two
    records."""

    def __post_init__(self):
        at_least(self, 1, "readers")


def main(command_line: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an argument or a file cannot be used.
        SystemExit: the arguments are malformed, or help was asked for.
    """
    arguments = parse(LatentsArguments, command_line, prog=program("latents"))
    # Imported here, so that help is answered without starting jax.
    from cvvae_jax.latents.dataset_write import write_latents

    done = write_latents(
        arguments.source,
        arguments.target,
        config=arguments.config,
        model=_model(arguments),
        share=arguments.share,
        exclude=arguments.exclude,
        readers=arguments.readers,
        track=track,
    )
    if done.statistics is None:
        print(
            f"{arguments.target}: {arguments.share} has finished its shards; other processes still "
            f"have {done.missing}, and the last process completes the data set."
        )
        return
    if done.was_complete:
        print(f"{arguments.target} is already complete; its source was not read.")
    _print_statistics(arguments.target, done.statistics)


def _model(arguments: LatentsArguments) -> "UnloadedEncoder":
    """Find the model without loading it.

    Raises:
        UserError: there is no such model, or it is no video or image VAE.
    """
    from cvvae_jax.convert.card import sha256
    from cvvae_jax.latents.dataset_write import UnloadedEncoder
    from cvvae_jax.loading import open_model
    from cvvae_jax.models.autoencoder import VAE

    found = open_model(arguments.weights, dtype=arguments.dtype)
    if not issubclass(found.model_class, VAE):
        raise UserError(
            f"{arguments.weights} holds {found.model_class.__name__}, not VideoVAE, ImageVAE or "
            "SVDVAE."
        )
    return UnloadedEncoder(
        weights=sha256(found.weight_files),
        **latent_scale(found.config),
        settings={
            "dtype": arguments.dtype,
            "chunk_frames": arguments.chunk_frames,
            "tile": arguments.tile,
        },
        # The path of the checkpoint that was hashed: a run that still trains may soon have a newer
        # one.
        load=lambda: _encoder(arguments, found.path if found.is_ours else arguments.weights),
    )


def _encoder(arguments: LatentsArguments, weights: Path) -> "LatentsEncoder":
    import jax

    from cvvae_jax.codec.codec import Codec
    from cvvae_jax.latents.dataset_shard import LatentsEncoder
    from cvvae_jax.loading import load

    vae = load(weights, dtype=arguments.dtype)
    codec = Codec(vae, chunk_frames=arguments.chunk_frames, tile=arguments.tile)
    device = jax.devices()[0].device_kind
    print(f"Device: {device}. The model is compiled first.", file=sys.stderr, flush=True)
    return LatentsEncoder(codec, sample=arguments.config.sample, seed=arguments.config.seed)


def _print_statistics(target: str, found: dict[str, Any]) -> None:
    left = [
        f"{found[name]} {what}"
        for name, what in (
            ("left_out_files", "files, which bad.tsv lists"),
            ("left_out_frames", "frames at the ends of videos, which are too few for a clip"),
        )
        if found[name]
    ]
    print(
        f"{target}: {found['records']} records of {found['files']} files with {found['frames']} "
        f"frames, {found['bytes'] / 2**20:.1f} MiB; left out: {' and '.join(left) or 'nothing'}"
    )
    for name in ("mean", "std"):
        print(f"{name} of every channel: {' '.join(f'{value:.4g}' for value in found[name])}")

"""`python -m cvvae_jax latents SRC DST --weights PATH`: a data set through an encoder."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

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
class Latents:
    """Encode videos and images into shards of latents, to train other models on.

    A command that was interrupted goes on where it was when it is given again. Several processes
    share the work when each is given its --process-index, on machines that reach SRC and DST; they
    need not start or end together, and another number of them may go on. The one that ends last
    writes the index and the statistics. `cvvae_jax.LatentsDataset(DST)` reads the latents.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC")]
    """LatentsFolder, pattern, list, shards, tar files or tfds:NAME, with videos, images or both."""
    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DST")]
    """LatentsFolder for the shards: new, empty, or begun by the same command; a local path or an address
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
    """Type of the computation; unset: the model's own."""
    chunk_frames: int = 16
    """Frames from a chunk to the next, a multiple of the model's temporal compression."""
    tile: int = 576
    """Height and width in pixels of the tiles that larger frames are cut into."""
    readers: int = 4
    """Files that are read at once, in threads; each holds up to two records' frames."""

    def __post_init__(self):
        at_least(self, 1, "readers")


def main(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an argument or a file cannot be used.
        SystemExit: the arguments are malformed, or help was asked for.
    """
    options = tyro.cli(Latents, args=arguments, prog=program("latents"))
    # Imported here, so that help is answered without starting jax.
    from cvvae_jax.latents.dataset_write import write_latents

    done = write_latents(
        options.source,
        options.target,
        config=options.config,
        model=_model(options),
        share=options.share,
        exclude=options.exclude,
        readers=options.readers,
        track=track,
    )
    if done.statistics is None:
        print(
            f"{options.target}: {options.share} has finished its shards; {done.missing} are left "
            "for others, the last of which completes the set."
        )
        return
    if done.was_complete:
        print(f"{options.target} is complete already; its source was not looked at.")
    _print_statistics(options.target, done.statistics)


def _model(options: Latents) -> "UnloadedEncoder":
    """The model, not loaded yet.

    Raises:
        UserError: there is none, or it is no VAE.
    """
    from cvvae_jax.convert.card import sha256
    from cvvae_jax.latents.dataset_write import UnloadedEncoder
    from cvvae_jax.loading import open_model
    from cvvae_jax.models.autoencoder import VAE

    found = open_model(options.weights, dtype=options.dtype)
    if not issubclass(found.model_class, VAE):
        raise UserError(
            f"{options.weights} holds a {found.model_class.__name__}; a video or image VAE is "
            "wanted."
        )
    return UnloadedEncoder(
        weights=sha256(found.weight_files),
        **latent_scale(found.config),
        settings={
            "dtype": options.dtype,
            "chunk_frames": options.chunk_frames,
            "tile": options.tile,
        },
        # A run that goes on may have another newest checkpoint by now than the one hashed.
        load=lambda: _encoder(options, found.path if found.is_ours else options.weights),
    )


def _encoder(options: Latents, weights: Path) -> "LatentsEncoder":
    import jax

    from cvvae_jax.codec.codec import Codec
    from cvvae_jax.latents.dataset_shard import LatentsEncoder
    from cvvae_jax.loading import load

    vae = load(weights, dtype=options.dtype)
    codec = Codec(vae, chunk_frames=options.chunk_frames, tile=options.tile)
    device = jax.devices()[0].device_kind
    print(f"Device: {device}. The model is compiled first.", file=sys.stderr, flush=True)
    return LatentsEncoder(codec, sample=options.config.sample, seed=options.config.seed)


def _print_statistics(target: str, found: dict[str, Any]) -> None:
    left = [
        f"{found[name]} {what}"
        for name, what in (
            ("left_out_files", "files, which bad.tsv lists"),
            ("left_out_frames", "frames at the ends of videos, too few for a clip"),
        )
        if found[name]
    ]
    print(
        f"{target}: {found['records']} records of {found['files']} files with {found['frames']} "
        f"frames, {found['bytes'] / 2**20:.1f} MiB; left out: {' and '.join(left) or 'nothing'}"
    )
    for name in ("mean", "std"):
        print(f"{name} of every channel: {' '.join(f'{value:.4g}' for value in found[name])}")

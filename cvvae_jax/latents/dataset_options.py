"""Settings of a data set of latents. Importing them starts no jax, for a fast `latents --help`."""

import dataclasses
from typing import Literal

import tyro

from cvvae_jax.config.checks import at_least
from cvvae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LatentsConfig:
    """What is encoded, and how it is stored.

    These settings, the source and the model decide every byte of the data set.
    """

    format: Literal["array_record", "webdataset"] = "array_record"
    """Format of the shards: ArrayRecord with safetensors records, or tar files for WebDataset."""
    clip_frames: int | None = None
    """Cut videos into consecutive clips of this many frames; frames that are left at the end are
    dropped and counted. Default: whole videos."""
    size: int | None = None
    """Resize the short side to this many pixels and crop the square in the middle; smaller files
    are left out. Default: frames as they are."""
    store: Literal["float32", "float16"] = "float32"
    """Type of the stored arrays; float16 halves their size and rounds them to 11 bits."""
    sample: tyro.conf.FlagCreatePairsOff[bool] = False
    """Store latents that are sampled from the posterior, in place of its mean and log-variance."""
    seed: int = 0
    """Seed of the samples; beside it, a clip's sample depends only on its place in the source."""
    items_per_shard: int = 64
    """Videos and images in a shard; a process that is killed loses at most one shard."""
    record_mb: float = 256.0
    """Most MiB of frames in a record; a longer whole video becomes several records."""
    batch: int = 1
    """Clips that are encoded together; more than 1 needs --clip-frames and --size."""

    def __post_init__(self):
        at_least(self, 1, "items_per_shard", "batch")
        at_least(self, 0, "seed")
        for name in ("clip_frames", "size"):
            if getattr(self, name) is not None:
                at_least(self, 1, name)
        if self.record_mb <= 0:
            raise UserError(f"record_mb must be positive, not {self.record_mb:g}.")
        if self.batch > 1 and None in (self.clip_frames, self.size):
            raise UserError(
                f"a batch of {self.batch} needs clips of one shape: set clip-frames and size, too."
            )

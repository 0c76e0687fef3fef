"""What the `latents` command can be told, apart from the model."""

import dataclasses
from typing import Literal

import tyro

from cvvae_jax.config.checks import at_least
from cvvae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LatentsConfig:
    """What is encoded and how it is stored: with source and model, this decides every byte."""

    format: Literal["array_record", "webdataset"] = "array_record"
    """ArrayRecord shards whose records are safetensors, or tar shards as WebDataset reads them."""
    clip_frames: int | None = None
    """Cut videos into clips of so many frames, one after the other; what is left at the end is left
    out, and counted. Unset: whole videos."""
    size: int | None = None
    """Resize the short side to so many pixels and take the square in the middle; what is smaller is
    left out. Unset: frames as they are."""
    store: Literal["float32", "float16"] = "float32"
    """Type of the stored arrays; float16 halves them, rounded to 11 bits."""
    sample: tyro.conf.FlagCreatePairsOff[bool] = False
    """Store latents drawn from the posterior; else its mean and log-variance."""
    seed: int = 0
    """Seed of the draw; a clip's draw depends on its place in the source alone."""
    items_per_shard: int = 64
    """Videos and images that go into a shard; a process that is killed loses one shard at most."""
    record_mb: float = 256.0
    """MiB of frames in a record, at most: a whole video that is longer becomes several records."""
    batch: int = 1
    """Clips that are encoded together; for more than 1, set clip-frames and size."""

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
                f"a batch of {self.batch} needs clips of one shape: set clip-frames and size too."
            )

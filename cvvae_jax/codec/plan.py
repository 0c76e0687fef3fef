"""Where a video is cut, in time and in space: plain numbers, no arrays."""

import dataclasses

from cvvae_jax.config import ConfigError

CHUNK_FRAMES = 16
"""Frames from the start of a chunk to the start of the next, in the official code."""
TILE = 576
"""Height and width of a tile in pixels, in the official code."""
OVERLAP = 0.2222
"""Part of a tile that the next tile shares, in the official code: 128 of 576 pixels."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """How one axis is cut into overlapping pieces of equal size; only the last may be shorter."""

    size: int
    """Length of a piece."""
    stride: int
    """From the start of a piece to the start of the next."""

    @property
    def overlap(self) -> int:
        """What two neighbors share."""
        return self.size - self.stride

    def spans(self, length: int) -> list[slice]:
        """The pieces of an axis; the first one that reaches the end is the last."""
        starts = range(0, max(length - self.overlap, 1), self.stride)
        return [slice(start, min(start + self.size, length)) for start in starts]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cuts of pixels and those of latents that belong to them."""

    frame_chunks: Cut
    """Time of the video: chunks share one frame."""
    latent_chunks: Cut
    """Time of the latents: chunks share one latent frame."""
    pixel_tiles: Cut
    """Height and width of the video."""
    latent_tiles: Cut
    """Height and width of the latents."""


def make_plan(
    *,
    temporal_compression: int,
    spatial_compression: int,
    chunk_frames: int = CHUNK_FRAMES,
    tile: int = TILE,
    overlap: float = OVERLAP,
) -> Plan:
    """The plan for a model of these compressions.

    The stride of tiles is rounded in latents and multiplied for pixels. (The official code rounds
    both; where they then disagree, such as with 64-pixel tiles, its output has the wrong size.)

    Raises:
        ConfigError: a number does not suit the model.
    """
    if chunk_frames < 1 or chunk_frames % temporal_compression:
        raise ConfigError(
            f"chunk-frames must be a positive multiple of {temporal_compression}, "
            f"not {chunk_frames}."
        )
    if tile < 1 or tile % spatial_compression:
        raise ConfigError(
            f"tile must be a positive multiple of {spatial_compression} pixels, not {tile}."
        )
    if not 0 <= overlap <= 0.5:
        raise ConfigError(f"overlap must be between 0 and 0.5 of a tile, not {overlap}.")
    size = tile // spatial_compression
    stride = max(round(size * (1 - overlap)), 1)
    chunk = chunk_frames // temporal_compression
    return Plan(
        frame_chunks=Cut(chunk_frames + 1, chunk_frames),
        latent_chunks=Cut(chunk + 1, chunk),
        pixel_tiles=Cut(tile, stride * spatial_compression),
        latent_tiles=Cut(size, stride),
    )

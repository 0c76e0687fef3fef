"""The plan of a video: where it is cut in time and space, and which devices take the pieces.

This file computes with plain numbers and needs no arrays.
"""

import dataclasses

from cvvae_jax.codec.values import PixelType
from cvvae_jax.errors import UserError

CHUNK_FRAMES = 16
"""Frames from the start of a chunk to the start of the next, in the official code."""
TILE = 576
"""Height and width of a tile in pixels, in the official code."""
OVERLAP = 0.2222
"""Fraction of a tile that the next tile repeats, in the official code: 128 of 576 pixels."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """How one axis is cut into overlapping pieces of equal size; only the last may be shorter.

    Lengths are numbers of frames, latent frames, pixels or latents, depending on the axis.
    """

    size: int
    """Length of a piece."""
    stride: int
    """Distance from the start of a piece to the start of the next one."""

    @property
    def overlap(self) -> int:
        """Length that two neighboring pieces have in common."""
        return self.size - self.stride

    def spans(self, length: int) -> list[slice]:
        """The pieces of an axis of this length; the first that reaches the end is the last."""
        starts = range(0, max(length - self.overlap, 1), self.stride)
        return [slice(start, min(start + self.size, length)) for start in starts]


@dataclasses.dataclass(frozen=True)
class Cuts:
    """The cuts of a video, and the cuts of its latents at the same places."""

    frame_chunks: Cut
    """Cuts the frames of the video into chunks; neighbors share one frame."""
    latent_chunks: Cut
    """Cuts the latent frames into chunks; neighbors share one latent frame."""
    pixel_tiles: Cut
    """Cuts the height and the width of the video, in pixels."""
    latent_tiles: Cut
    """Cuts the height and the width of the latents."""


@dataclasses.dataclass(frozen=True)
class CutPlan:
    """How videos of one size go through a model: where they are cut, and which devices take them.

    A piece is a chunk of the video, or a tile of a chunk.
    """

    frames: int
    """Frames of the longest chunk."""
    height: int
    """Height of the video in pixels, padded to a multiple of the model's strides."""
    width: int
    """Width of the video in pixels, padded likewise."""
    pixels: PixelType
    """Type of the video that is encoded, or that decoding gives."""
    cuts: Cuts
    """Where the video is cut."""
    groups: int
    """Number of groups of devices; each group takes pieces of its own."""
    split_rows: int
    """Number of devices in a group, which share the rows of a piece."""
    batch: int = 1
    """Pieces that a group takes at once."""
    memory: int = 0
    """Bytes that a device needs at most, as the compiler reports them; 0 before it is asked."""

    @property
    def tiles(self) -> int:
        """Number of tiles of a frame; 1 for whole frames."""
        tiles = self.cuts.pixel_tiles
        return len(tiles.spans(self.height)) * len(tiles.spans(self.width))

    @property
    def piece(self) -> tuple[int, int, int]:
        """Frames, height and width of the largest piece, in pixels."""
        tile = self.cuts.pixel_tiles.size
        frames = min(self.frames, self.cuts.frame_chunks.size)
        return frames, min(self.height, tile), min(self.width, tile)

    def program_pixels(self, direction: str) -> PixelType:
        """Type of the pixels that the model's program takes or gives.

        Decoded tiles are float32, since they are blended before they are rounded to uint8.
        """
        return "float32" if direction == "decode" and self.tiles > 1 else self.pixels

    @property
    def chunks_at_once(self) -> int:
        """Number of chunks that fill the batches of all groups of devices; more are no faster."""
        return max(1, self.groups * self.batch // self.tiles)

    def describe(self, *, frames: int | None) -> list[str]:
        """Describe the plan for users, a line each: chunks, tiles, devices and memory.

        Args:
            frames: frames of the whole video; None where they are not known.
        """
        return [self._chunks(frames), self._tiles(), self._devices(), self._memory()]

    def _chunks(self, frames: int | None) -> str:
        size = self.cuts.frame_chunks.size
        if frames is not None and frames <= size:
            return f"Time: one chunk of {_counted(frames, 'frame')}."
        number = "" if frames is None else f"{len(self.cuts.frame_chunks.spans(frames))} "
        shared = self.cuts.frame_chunks.overlap
        return f"Time: {number}chunks of {size} frames that share {_counted(shared, 'frame')}."

    def _tiles(self) -> str:
        size = f"{self.width} x {self.height} pixels"
        if self.tiles == 1:
            return f"Space: whole frames of {size}; the result is exact."
        tiles = self.cuts.pixel_tiles
        return (
            f"Space: {self.tiles} tiles of {tiles.size} x {tiles.size} of frames of {size}, which "
            f"overlap by {tiles.overlap}; the result is blended from them."
        )

    def _devices(self) -> str:
        pieces = _counted(self.batch, "piece")
        if self.groups * self.split_rows == 1:
            return f"Device: one, {pieces} at once."
        share = "each"
        if self.split_rows > 1:
            share = f"every {self.split_rows} of which share the rows of"
        return f"Devices: {self.groups * self.split_rows}, {share} {pieces} at once."

    def _memory(self) -> str:
        return f"Memory: at most {self.memory / 2**30:.3g} GiB per device, with the model."


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def make_cuts(
    *,
    temporal_compression: int,
    spatial_compression: int,
    chunk_frames: int = CHUNK_FRAMES,
    tile: int | None = TILE,
    overlap: float = OVERLAP,
) -> Cuts:
    """Place the cuts for a model.

    The stride of tiles is rounded to whole latents, and then multiplied to pixels. (The official
    code rounds both by themselves. Where the two disagree, such as with 64-pixel tiles, its output
    has the wrong size.)

    Args:
        temporal_compression: frames of the video per latent frame after the first one.
        spatial_compression: pixels per latent along height and width.
        chunk_frames: frames from the start of a chunk to the start of the next, a multiple of
            `temporal_compression`.
        tile: height and width of a tile in pixels, a multiple of `spatial_compression`; None for
            whole frames.
        overlap: fraction of a tile that its neighbor repeats, 0 to 0.5.

    Raises:
        UserError: `chunk_frames`, `tile` or `overlap` does not suit the model.
    """
    if chunk_frames < 1 or chunk_frames % temporal_compression:
        raise UserError(
            f"chunk-frames must be a positive multiple of {temporal_compression}, "
            f"not {chunk_frames}."
        )
    if tile is not None and (tile < 1 or tile % spatial_compression):
        raise UserError(
            f"tile must be a positive multiple of {spatial_compression} pixels, not {tile}."
        )
    if not 0 <= overlap <= 0.5:
        raise UserError(f"overlap must be between 0 and 0.5 of a tile, not {overlap}.")
    size = _ENDLESS if tile is None else tile // spatial_compression
    stride = size if tile is None else max(round(size * (1 - overlap)), 1)
    chunk = chunk_frames // temporal_compression
    return Cuts(
        frame_chunks=Cut(chunk_frames + 1, chunk_frames),
        latent_chunks=Cut(chunk + 1, chunk),
        pixel_tiles=Cut(size * spatial_compression, stride * spatial_compression),
        latent_tiles=Cut(size, stride),
    )


_ENDLESS = 2**24
"""Size in latents that no frame reaches: the tile that stands for whole frames."""

"""Where a video is cut, in time and in space, and how devices share the pieces: plain numbers, no
arrays."""

import dataclasses

from cvvae_jax.codec.values import PixelType
from cvvae_jax.errors import UserError

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
class Cuts:
    """The cuts of pixels and those of latents that belong to them."""

    frame_chunks: Cut
    """Time of the video: chunks share one frame."""
    latent_chunks: Cut
    """Time of the latents: chunks share one latent frame."""
    pixel_tiles: Cut
    """Height and width of the video."""
    latent_tiles: Cut
    """Height and width of the latents."""


@dataclasses.dataclass(frozen=True)
class CutPlan:
    """How videos of one size go through a model: where they are cut, and who takes the pieces.

    A piece is a chunk of the video, or a tile of a chunk.
    """

    frames: int
    """Of the chunks that it was made for, like `height` and `width`; the longest one."""
    height: int
    """In pixels, as the model sees them: a multiple of its strides."""
    width: int
    """In pixels, likewise."""
    pixels: PixelType
    """What is encoded, or wanted of what is decoded."""
    cuts: Cuts
    """Where the video is cut."""
    groups: int
    """Groups of devices; each takes pieces of its own."""
    split_rows: int
    """Devices of a group, which share the rows of a piece."""
    batch: int = 1
    """Pieces that a group takes at once."""
    memory: int = 0
    """Bytes that a device needs for it at most, by the compiler's account; 0 before it is asked."""

    @property
    def tiles(self) -> int:
        """Tiles of a frame."""
        tiles = self.cuts.pixel_tiles
        return len(tiles.spans(self.height)) * len(tiles.spans(self.width))

    @property
    def piece(self) -> tuple[int, int, int]:
        """Frames, height and width of the largest piece, in pixels."""
        tile = self.cuts.pixel_tiles.size
        frames = min(self.frames, self.cuts.frame_chunks.size)
        return frames, min(self.height, tile), min(self.width, tile)

    def program_pixels(self, direction: str) -> PixelType:
        """What the model's program takes or gives: tiles that fade into each other are floats."""
        return "float32" if direction == "decode" and self.tiles > 1 else self.pixels

    @property
    def chunks_at_once(self) -> int:
        """Chunks that give every group of devices a full batch of pieces; more are no faster."""
        return max(1, self.groups * self.batch // self.tiles)

    def describe(self, *, frames: int | None) -> list[str]:
        """In words: what was chosen for a video of so many frames (None: not known), the memory
        that a device needs, and whether the result is exact or blended."""
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
        return f"Memory: {self.memory / 2**30:.3g} GiB a device at most, the model's included."


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
    """The cuts for a model of these compressions.

    The stride of tiles is rounded in latents and multiplied for pixels. (The official code rounds
    both; where they then disagree, such as with 64-pixel tiles, its output has the wrong size.)

    Args:
        temporal_compression: of the model.
        spatial_compression: of the model.
        chunk_frames: frames from a chunk to the next.
        tile: height and width of a tile in pixels; None for whole frames.
        overlap: the part of a tile that its neighbor shares.

    Raises:
        UserError: a number does not suit the model.
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
"""Latents along one axis that no frame has: a tile of whole frames."""

"""Chooses how a video goes through a model: whole where it fits, exact before blended."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import jax

from cvvae_jax.codec import memory
from cvvae_jax.codec.pixels import PixelType
from cvvae_jax.codec.plan import CHUNK_FRAMES, OVERLAP, TILE, Cuts, Plan, make_cuts
from cvvae_jax.codec.programs import Direction, Programs, Share
from cvvae_jax.config import ConfigError
from cvvae_jax.models.autoencoder import VAE

Tile = int | Literal["auto", "whole"]
"""Height and width in pixels; `whole` frames; or whole where that fits into memory."""

# From the official size downwards, for devices that don't even have room for that one.
_TILES = (TILE, 448, 320, 256, 192, 128)
# So many pixels keep an accelerator busy; smaller pieces are taken together.
_BUSY = 17 * 512 * 512
_LARGEST_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What a user may decide."""

    chunk_frames: int = CHUNK_FRAMES
    tile: Tile = "auto"
    overlap: float = OVERLAP
    batch: int | None = None
    split_rows: int | None = None
    memory: int | None = None

    def check(self, vae: VAE, *, devices: int) -> None:
        """Raise ConfigError where a number doesn't suit the model or the number of devices."""
        if isinstance(self.tile, str) and self.tile not in ("auto", "whole"):
            raise ConfigError(f"tile must be pixels, auto or whole, not {self.tile}.")
        self.cuts(vae, None if isinstance(self.tile, str) else self.tile)
        if self.batch is not None and self.batch < 1:
            raise ConfigError(f"batch must be 1 at least, not {self.batch}.")
        if self.memory is not None and self.memory < 1:
            raise ConfigError(f"memory must be positive, not {self.memory / 2**30:g} GiB.")
        if self.split_rows is not None and (self.split_rows < 1 or devices % self.split_rows):
            raise ConfigError(
                f"split-rows must divide the number of devices, {devices}, not be "
                f"{self.split_rows}."
            )

    def cuts(self, vae: VAE, tile: int | None) -> Cuts:
        """The cuts with such tiles; None: whole frames."""
        return make_cuts(
            temporal_compression=vae.temporal_compression,
            spatial_compression=vae.config.spatial_compression,
            chunk_frames=self.chunk_frames,
            tile=tile,
            overlap=self.overlap,
        )


@dataclasses.dataclass(frozen=True)
class Video:
    """What a plan depends on."""

    frames: int
    """As the model sees them, as are height and width: the strides divide them."""
    height: int
    """In pixels."""
    width: int
    """In pixels."""
    pixels: PixelType
    """What is encoded, or wanted of what is decoded."""


def choose(
    vae: VAE, programs: Programs, direction: Direction, video: Video, *, devices: list, by: Wishes
) -> Plan:
    """How videos of a size are encoded or decoded.

    Where there is something to choose, the first of these that memory allows, by the compiler's own
    account: whole frames; whole frames whose rows devices share; tiles, large ones first.

    Raises:
        ConfigError: memory allows none of them.
    """
    plans = list(_candidates(vae, video, devices=len(devices), by=by))
    limit = by.memory or memory.available(devices, vae)
    model = sum(leaf.nbytes for leaf in jax.tree.leaves(vae))
    batch, needed = by.batch or 1, []
    for plan in plans:
        one = _needs(vae, programs, direction, plan, batch=batch)
        if one is not None and (one <= limit or len(plans) == 1):
            room = max(limit - model, 0) // max(one - model, 1)
            most = by.batch or _batch(plan, room=room, platform=devices[0].platform)
            expected = model + (one - model) * most // batch
            return dataclasses.replace(plan, batch=most, expected=expected)
        needed.append(one)
    what = f"{direction} {video.frames} frames of {video.width} x {video.height}"
    known = [number for number in needed if number is not None]
    if not known:
        raise ConfigError(f"no program to {what} could be compiled; the log says why.")
    raise ConfigError(
        f"a device has {limit / 2**30:.3g} GiB, too little to {what}: the least that any way takes "
        f"is {min(known) / 2**30:.3g} GiB; fewer chunk-frames take less."
    )


def _candidates(vae: VAE, video: Video, *, devices: int, by: Wishes) -> Iterator[Plan]:
    """Every way that the user leaves open, the best one first."""
    shares = [s for s in range(1, devices + 1) if devices % s == 0]
    if by.split_rows:
        shares = [by.split_rows]
    largest = max(video.height, video.width)
    ways: list[tuple[int | None, int]]
    match by.tile:
        case "auto":
            tiles = [tile for tile in _TILES if tile < largest]
            ways = [(None, s) for s in shares] + [(tile, shares[0]) for tile in tiles]
        case "whole":
            ways = [(None, s) for s in shares]
        case tile:
            ways = [(tile, shares[0])]
    for tile, split_rows in ways:
        yield Plan(
            frames=video.frames,
            height=video.height,
            width=video.width,
            pixels=video.pixels,
            cuts=by.cuts(vae, tile),
            groups=devices // split_rows,
            split_rows=split_rows,
        )


def _batch(plan: Plan, *, room: int, platform: str) -> int:
    """Pieces for a group of devices to take at once, where there are so many; a CPU is busy with
    one."""
    if platform == "cpu":
        return 1
    most = min(_BUSY // math.prod(plan.piece), room, _LARGEST_BATCH)
    return 1 << max(most, 1).bit_length() - 1


def _needs(
    vae: VAE, programs: Programs, direction: Direction, plan: Plan, *, batch: int
) -> int | None:
    """Bytes that a device needs for so many pieces; None: more than it has."""
    frames, height, width = plan.piece
    shape = (frames, height, width, 3)
    if direction == "decode":
        space = vae.config.spatial_compression
        n = 1 + (frames - 1) // vae.temporal_compression
        shape = (n, height // space, width // space, vae.config.latent_channels)
    needed = memory.expected(
        programs,
        direction,
        (plan.groups * batch, *shape),
        share=Share(plan.groups, plan.split_rows),
        pixels=plan.program_pixels(direction),
    )
    if needed is None or plan.tiles == 1:
        return needed
    # One device holds the tiles of a chunk, the joined chunk, and the one before.
    channels = 3 if direction == "decode" else 2 * vae.config.latent_channels
    scale = 1 if direction == "decode" else vae.config.spatial_compression**2
    return needed + 3 * 4 * plan.frames * plan.height * plan.width * channels // scale

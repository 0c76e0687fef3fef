"""Chooses the plan of a video: whole frames where they fit into memory, blended tiles elsewhere."""

import contextlib
import dataclasses
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

from cvvae_jax.codec.plan import CHUNK_FRAMES, OVERLAP, TILE, CutPlan, Cuts, make_cuts
from cvvae_jax.codec.programs import CodecPrograms, DeviceGroups, Direction
from cvvae_jax.codec.values import PixelType
from cvvae_jax.errors import UserError
from cvvae_jax.models.autoencoder import VAE

_log = logging.getLogger(__name__)

Tile = int | Literal["auto", "whole"]
"""Height and width of a tile in pixels; `whole` frames; or `auto`: tiles only where whole frames
don't fit into memory."""

# The tile sizes that `auto` tries: the official one, and smaller ones for devices with less memory.
_TILES = (TILE, 448, 320, 256, 192, 128)
# Pixels that keep an accelerator busy; smaller pieces are batched.
_BUSY = 17 * 512 * 512
_LARGEST_BATCH = 16
# Fraction of the free memory that is used. The rest is for fragmentation and for other libraries.
_USABLE = 0.9


@dataclasses.dataclass(frozen=True)
class CodecOptions:
    """The arguments of `Codec` that decide how videos are cut and shared; it explains them."""

    chunk_frames: int = CHUNK_FRAMES
    tile: Tile = "auto"
    overlap: float = OVERLAP
    batch: int | None = None
    split_rows: int | None = None
    memory: int | None = None

    def check(self, vae: VAE, *, devices: int) -> None:
        """Raise UserError if there is no model, or an option does not suit it or the number of
        devices."""
        if isinstance(vae, str | os.PathLike):
            raise UserError(f"vae must be a model, not a path: use cvvae_jax.load({str(vae)!r}).")
        if isinstance(self.tile, str) and self.tile not in ("auto", "whole"):
            raise UserError(f"tile must be pixels, auto or whole, not {self.tile}.")
        self.cuts(vae, None if isinstance(self.tile, str) else self.tile)
        if self.batch is not None and self.batch < 1:
            raise UserError(f"batch must be 1 at least, not {self.batch}.")
        if self.memory is not None and self.memory < 1:
            raise UserError(f"memory must be positive, not {self.memory / 2**30:g} GiB.")
        if self.split_rows is not None and (self.split_rows < 1 or devices % self.split_rows):
            raise UserError(
                f"split-rows must divide the number of devices, {devices}, not be "
                f"{self.split_rows}."
            )

    def cuts(self, vae: VAE, tile: int | None) -> Cuts:
        """The cuts with tiles of this size in pixels; None stands for whole frames."""
        return make_cuts(
            temporal_compression=vae.temporal_compression,
            spatial_compression=vae.config.spatial_compression,
            chunk_frames=self.chunk_frames,
            tile=tile,
            overlap=self.overlap,
        )


@dataclasses.dataclass(frozen=True)
class VideoSize:
    """The size of the longest chunk of a video, padded so that the model's strides divide it."""

    frames: int
    height: int
    """Height in pixels."""
    width: int
    """Width in pixels."""
    pixels: PixelType
    """Type of the video that is encoded, or that decoding gives."""


def choose(
    vae: VAE,
    programs: CodecPrograms,
    direction: Direction,
    video: VideoSize,
    *,
    devices: list,
    options: CodecOptions,
) -> CutPlan:
    """Choose how videos of one size are encoded or decoded.

    The first of these plans that fits into memory is taken: whole frames, whole frames whose rows
    are shared by devices, tiles (large ones first). The options leave out some of them. The
    compiler says how much memory a plan needs. Where the options leave a single plan, it is taken
    however much it needs.

    Raises:
        UserError: no plan fits into memory.
    """
    plans = list(_candidates(vae, video, devices=len(devices), options=options))
    limit = options.memory or available(devices, vae)
    model = sum(leaf.nbytes for leaf in jax.tree.leaves(vae))
    batch, needed = options.batch or 1, []
    for plan in plans:
        one = _needs(vae, programs, direction, plan, batch=batch)
        if one is not None and (one <= limit or len(plans) == 1):
            room = max(limit - model, 0) // max(one - model, 1)
            most = options.batch or _batch(plan, room=room, platform=devices[0].platform)
            memory = model + (one - model) * most // batch
            return dataclasses.replace(plan, batch=most, memory=memory)
        needed.append(one)
    what = f"{direction} {video.frames} frames of {video.width} x {video.height}"
    known = [number for number in needed if number is not None]
    if not known:
        raise UserError(f"no program to {what} could be compiled; the log says why.")
    raise UserError(
        f"a device has {limit / 2**30:.3g} GiB, too little to {what}, which needs at least "
        f"{min(known) / 2**30:.3g} GiB; fewer chunk-frames need less."
    )


def _candidates(
    vae: VAE, video: VideoSize, *, devices: int, options: CodecOptions
) -> Iterator[CutPlan]:
    """Every plan that the options allow, the best one first."""
    shares = [s for s in range(1, devices + 1) if devices % s == 0]
    if options.split_rows:
        shares = [options.split_rows]
    largest = max(video.height, video.width)
    ways: list[tuple[int | None, int]]
    match options.tile:
        case "auto":
            tiles = [tile for tile in _TILES if tile < largest]
            ways = [(None, s) for s in shares] + [(tile, shares[0]) for tile in tiles]
        case "whole":
            ways = [(None, s) for s in shares]
        case tile:
            ways = [(tile, shares[0])]
    for tile, split_rows in ways:
        yield CutPlan(
            frames=video.frames,
            height=video.height,
            width=video.width,
            pixels=video.pixels,
            cuts=options.cuts(vae, tile),
            groups=devices // split_rows,
            split_rows=split_rows,
        )


def _batch(plan: CutPlan, *, room: int, platform: str) -> int:
    """The number of pieces that a group of devices takes at once, a power of two.

    Args:
        plan: the plan that the pieces are of.
        room: pieces that fit into memory.
        platform: platform of the devices; on `cpu` one piece is enough.
    """
    if platform == "cpu":
        return 1
    most = min(_BUSY // math.prod(plan.piece), room, _LARGEST_BATCH)
    return 1 << max(most, 1).bit_length() - 1


def _needs(
    vae: VAE, programs: CodecPrograms, direction: Direction, plan: CutPlan, *, batch: int
) -> int | None:
    """Bytes that a device needs for a plan; None where the compiler fails for lack of memory."""
    frames, height, width = plan.piece
    shape = (frames, height, width, 3)
    if direction == "decode":
        space = vae.config.spatial_compression
        n = 1 + (frames - 1) // vae.temporal_compression
        shape = (n, height // space, width // space, vae.config.latent_channels)
    needed = memory_needed(
        programs,
        direction,
        (plan.groups * batch, *shape),
        groups=DeviceGroups(plan.groups, plan.split_rows),
        pixels=plan.program_pixels(direction),
    )
    if needed is None or plan.tiles == 1:
        return needed
    # One device holds the tiles of a chunk, the joined chunk, and the joined chunk before it, all
    # as float32.
    channels = 3 if direction == "decode" else 2 * vae.config.latent_channels
    scale = 1 if direction == "decode" else vae.config.spatial_compression**2
    return needed + 3 * 4 * plan.frames * plan.height * plan.width * channels // scale


def available(devices: list, vae: VAE) -> int:
    """Bytes that every one of the devices can use, those that the model occupies among them.

    CPU devices divide the free memory of the host among themselves.

    Raises:
        UserError: a device does not report its memory.
    """
    mine = [device for device in devices if device.process_index == jax.process_index()]
    least = int(min(_left(device, sharers=len(mine), vae=vae) for device in mine) * _USABLE)
    if jax.process_count() == 1 or len(mine) == len(devices):
        return least
    kib = np.asarray(least // 1024, np.int32)  # jax has no 64-bit integers by default
    return int(multihost_utils.process_allgather(kib).min()) * 1024


def _left(device: jax.Device, *, sharers: int, vae: VAE) -> int:
    if device.platform == "cpu":
        return _free_of_host() // sharers
    stats = device.memory_stats()
    if not stats or "bytes_limit" not in stats:
        raise UserError(
            f"{device.device_kind} doesn't say how much memory it has: set `memory` to what may be "
            "used."
        )
    leaves = jax.tree.leaves(vae)
    lying = sum(leaf.nbytes for leaf in leaves if device in leaf.devices())
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0) + lying


def _free_of_host() -> int:
    """Bytes that can be used without swapping, as Linux says; elsewhere, all memory of the host."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    # The limit of a container. ValueError: there is none, and the file holds the word `max`.
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    return free


def memory_needed(
    programs: CodecPrograms,
    direction: Direction,
    shape: tuple[int, ...],
    *,
    groups: DeviceGroups,
    pixels: PixelType,
) -> int | None:
    """Bytes that a device needs for a program; None where the compiler fails to make it.

    A program that was kept (see `compiling`) says what it said when it was compiled.
    """
    try:
        return programs.program(direction, shape, groups=groups, pixels=pixels).memory
    except jax.errors.JaxRuntimeError as error:
        what = str(error).partition("\n")[0]
        _log.warning("The compiler can't make the program to %s %s: %s", direction, shape, what)
        return None

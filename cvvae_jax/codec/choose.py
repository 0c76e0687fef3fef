"""How a video goes through a model: whole where it fits into memory, exact before blended."""

import contextlib
import dataclasses
import functools
import hashlib
import logging
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import jaxlib
import numpy as np
from jax.experimental import multihost_utils

from cvvae_jax.codec.plan import CHUNK_FRAMES, OVERLAP, TILE, Cuts, Plan, make_cuts
from cvvae_jax.codec.programs import Direction, Programs, Share
from cvvae_jax.codec.values import PixelType
from cvvae_jax.config.places import at_home
from cvvae_jax.errors import UserError
from cvvae_jax.models.autoencoder import VAE

_log = logging.getLogger(__name__)

# What is left alone: buffers fall into pieces, and other libraries need some.
_USABLE = 0.9


def available(devices: list, vae: VAE) -> int:
    """Bytes that each of the devices has left, those that the model lies in among them.

    CPUs share what is free of the host's.
    """
    mine = [device for device in devices if device.process_index == jax.process_index()]
    least = int(min(_left(device, sharers=len(mine), vae=vae) for device in mine) * _USABLE)
    if jax.process_count() == 1 or len(mine) == len(devices):
        return least
    kib = np.asarray(least // 1024, np.int32)  # jax has no 64 bits
    return int(multihost_utils.process_allgather(kib).min()) * 1024


def _left(device: jax.Device, *, sharers: int, vae: VAE) -> int:
    if device.platform == "cpu":
        return _free_of_host() // sharers
    stats = device.memory_stats()
    if not stats or "bytes_limit" not in stats:
        raise UserError(
            f"{device.device_kind} doesn't say how much memory it has: name what may be used "
            "(memory)."
        )
    leaves = jax.tree.leaves(vae)
    lying = sum(leaf.nbytes for leaf in leaves if device in leaf.devices())
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0) + lying


def _free_of_host() -> int:
    """Bytes that can be had without swapping; where Linux isn't there to say so, all there are."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):  # a container without a limit says `max`
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    return free


def expected(
    programs: Programs,
    direction: Direction,
    shape: tuple[int, ...],
    *,
    share: Share,
    pixels: PixelType,
) -> int | None:
    """Bytes that a device needs for a program; None where the compiler can't make it.

    What the compiler has said of a program once is kept in the user's cache folder, unless devices
    are those of several processes, which must all compile or none.
    """
    said = _Said(programs, direction, shape, share, pixels)
    memory = said.before() if jax.process_count() == 1 else None
    if memory is None:
        try:
            memory = programs.program(direction, shape, share=share, pixels=pixels).memory
        except jax.errors.JaxRuntimeError as error:
            what = str(error).partition("\n")[0]
            _log.warning("The compiler can't make the program to %s %s: %s", direction, shape, what)
            return None
        said.keep(memory)
    return memory


class _Said:
    """A file with the bytes that a program needs; its name stands for all that they depend on."""

    def __init__(self, programs: Programs, *parts):
        depends_on = (
            *parts,
            *programs.identity,
            jax.__version__,
            jaxlib.__version__,
            jax.config.jax_default_matmul_precision,
            jax.config.jax_enable_x64,
            *(os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")),
            _source_of_programs(),
        )
        name = hashlib.sha256(repr(depends_on).encode()).hexdigest()[:32]
        caches = os.environ.get("XDG_CACHE_HOME")
        folder = Path(at_home(caches or "~/.cache"))
        self._path = folder / "cvvae_jax" / "program-memory" / name

    def before(self) -> int | None:
        """What was kept, if anything sound was."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._path.read_text())
        return None

    def keep(self, memory: int) -> None:
        """Write it down, if that can be done."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False) as file:
                file.write(str(memory))
            os.replace(file.name, self._path)


@functools.cache
def _source_of_programs() -> str:
    """A hash of the code that the programs are made of."""
    package = Path(__file__).parents[1]
    sources = [
        package / "split_frames.py",
        package / "codec" / "programs.py",
        *sorted((package / "models").glob("*.py")),
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


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
        """Raise UserError where a number doesn't suit the model or the number of devices."""
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
        UserError: memory allows none of them.
    """
    plans = list(_candidates(vae, video, devices=len(devices), by=by))
    limit = by.memory or available(devices, vae)
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
        raise UserError(f"no program to {what} could be compiled; the log says why.")
    raise UserError(
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
    needed = expected(
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

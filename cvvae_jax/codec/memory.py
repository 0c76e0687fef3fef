"""How much memory there is, and how much a program needs by the compiler's own account."""

import contextlib
import functools
import hashlib
import logging
import os
import tempfile
from pathlib import Path

import jax
import jaxlib
import numpy as np
from jax.experimental import multihost_utils

from cvvae_jax.codec.pixels import PixelType
from cvvae_jax.codec.programs import Direction, Programs, Share
from cvvae_jax.config import ConfigError
from cvvae_jax.config.home import at_home
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
        raise ConfigError(
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
        package / "rows.py",
        package / "codec" / "programs.py",
        *sorted((package / "models").glob("*.py")),
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()

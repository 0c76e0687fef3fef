"""Compiled programs: kept from one start to the next, and said before they are waited for.

JAX keeps programs in a folder, but lets it grow for ever; or with `jax_compilation_cache_max_size`,
it takes a lock for every program, which needs a further package, and with jax 0.10 keeps nothing
more once a killed process has left half an entry. So the folder is trimmed here, at the start of a
command: the programs that were used longest ago go first, and what a killed process left unfinished
goes as well, which would otherwise be read in vain at every start.

A program for CPUs has instructions that another CPU may not have, and homes are often shared by
machines of several kinds. So every kind of CPU has a folder of its own.
"""

import contextlib
import functools
import hashlib
import logging
import os
import platform
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cvvae_jax.config.places import at_home
from cvvae_jax.resumable.files import written_aside

MOST_BYTES = 4 * 2**30
"""Size that the folder is trimmed to."""
_QUICK = 0.1
"""Seconds: programs that compile faster are not kept."""
_LONG = 60.0
"""Seconds: nobody takes so long to write an entry."""
_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_SETTINGS = {
    "jax_compilation_cache_dir": "",
    "jax_persistent_cache_min_compile_time_secs": _QUICK,
}
_ZSTANDARD = b"\x28\xb5\x2f\xfd"

_log = logging.getLogger(__name__)


def keep_compiled_programs() -> None:
    """Keeps compiled programs in the user's cache folder, so that a second start does not compile
    them again; all commands do so.

    Where `JAX_COMPILATION_CACHE_DIR` is set, or jax has a folder already, that one is used and left
    as it is. Where the folder can't be written, nothing is kept, and a message says so.
    """
    if _FOLDER in os.environ or _setting_of_jax() is not None:
        return
    folder = cache_folder() / "compiled" / _kind_of_cpu()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tidy(folder)
    except OSError as error:
        _log.info("Compiled programs are not kept: %s can't be written: %s", folder, error.strerror)
        return
    for name, value in (_SETTINGS | {"jax_compilation_cache_dir": str(folder)}).items():
        os.environ[name.upper()] = str(value)  # for a jax that is imported later
        if "jax" in sys.modules:
            sys.modules["jax"].config.update(name, value)


def cache_folder() -> Path:
    """The package's folder in the user's cache folder."""
    return Path(at_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "cvvae_jax"


def _setting_of_jax() -> str | None:
    jax = sys.modules.get("jax")
    return jax.config.jax_compilation_cache_dir if hasattr(jax, "config") else None


def _kind_of_cpu() -> str:
    """A name for the machine's kind of CPU: its instructions, where Linux tells them."""
    told = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        told += [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def tidy(folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
    """Removes what a killed process left unfinished since the last time, and the programs that were
    used longest ago, until the rest has the size.

    Raises:
        OSError: the folder can't be written.
    """
    found = {}
    for path in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process tidies, too
            found[path] = path.stat()
    stamp, now, kept = folder / "tidied", time.time(), 0
    before = stamp.stat().st_mtime - _LONG if stamp.exists() else 0.0
    stamp.touch()
    used = {path: max(stat.st_atime, stat.st_mtime) for path, stat in found.items()}
    for path in sorted(found, key=used.__getitem__, reverse=True):
        kept += found[path].st_size
        unknown = before < found[path].st_mtime < now - _LONG
        if kept > most_bytes or (unknown and not _is_whole(path)):
            path.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    """Whether an entry can be unpacked; jax packs it with zstandard where that is installed."""
    try:
        packed = path.read_bytes()
        if packed.startswith(_ZSTANDARD):
            import zstandard

            zstandard.ZstdDecompressor().decompress(packed)
        else:
            zlib.decompress(packed)
    except ImportError:  # the entries of another environment, which has it
        return True
    except Exception:  # zlib's and zstandard's errors have no common class
        return False
    return True


def compile_program(lowered: Any) -> Any:
    """Compiles a `jax.stages.Lowered` for the default backend, to a `jax.stages.Compiled`."""
    return lowered.compile(compiler_options=_compiler_options())


def _compiler_options() -> dict[str, str]:
    import jax
    import jaxlib

    if jax.default_backend() != "cpu" or not jaxlib.__version__.startswith("0.10."):
        return {}
    # This version computes convolutions with YNNPACK, which takes three to five times as long as
    # the alternative, Eigen, for those without zero padding (docs/performance.md has the figures).
    # Products of matrices and sums stay with YNNPACK. Jaxlib 0.12 is not slow; this can go with jax
    # 0.10, the last version for Python 3.11.
    kept = "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    return {"xla_cpu_experimental_ynn_fusion_type": kept}


class _Waits:
    """The time in which one thread or several waited for the compiler, and what was compiled."""

    def __init__(self):
        self._lock = threading.Lock()
        self._waiting, self._since, self._seconds = 0, 0.0, 0.0
        self.done: set[str] = set()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        with self._lock:
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                if not self._waiting:
                    self._seconds += time.monotonic() - self._since

    def seconds(self) -> float:
        with self._lock:
            return self._seconds + (time.monotonic() - self._since if self._waiting else 0.0)


_waits = _Waits()


class Stopwatch:
    """Measures time from its making on, with and without the waits for the compiler, which no rate
    should contain."""

    def __init__(self):
        self._start, self._compiled = time.monotonic(), _waits.seconds()

    def compiling(self) -> float:
        """Seconds in which a thread waited for a program, in `announced`."""
        return _waits.seconds() - self._compiled

    def seconds(self) -> float:
        """All seconds."""
        return time.monotonic() - self._start

    def working(self) -> float:
        """Seconds without those of compiling, above 0."""
        return max(self.seconds() - self.compiling(), 1e-9)


@contextlib.contextmanager
def announced(
    what: str,
    *depends_on: Any,
    once: bool = False,
    say: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """A context in which a program is traced and compiled. Before that it is said, with the time
    that it will take, as far as the last time tells; not if that is less than a second.

    Args:
        what: what the program is for, after the word "compiling".
        depends_on: what else tells programs of the same purpose apart, such as shapes and settings;
            values whose `repr` is the same in another process.
        once: whether a program that this process has compiled already is not compiled again, as
            `jax.jit` does it.
        say: takes the message; default: this module's logger, which commands show on stderr.
    """
    key = hashlib.sha256(repr((what, *depends_on, *_versions())).encode()).hexdigest()[:32]
    if once and key in _waits.done:
        yield
        return
    path = cache_folder() / "seconds" / key
    expected = _read_seconds(path)
    if expected is None or expected >= 1:
        about = "" if expected is None else f", about {expected:.0f} s"
        (say or _log.info)(f"compiling {what}{about}")
    with _waits.one(), _written_programs() as written:
        start = time.monotonic()
        yield
        seconds = time.monotonic() - start
    _waits.done.add(key)
    # What was compiled and kept now will be read the next time.
    _write_seconds(path, max(seconds - sum(written), 0.0))


@contextlib.contextmanager
def _written_programs() -> Iterator[list[float]]:
    """Seconds that the compiler took for programs that were kept, by events of jax."""
    _listen()
    taken: list[float] = []
    _listeners[id(taken)] = taken
    try:
        yield taken
    finally:
        del _listeners[id(taken)]


_listeners: dict[int, list[float]] = {}
_just_kept = threading.local()


@functools.cache
def _listen() -> None:
    """Hears of every compilation; jax tells first that a program was kept, then how long it took,
    in the thread that compiled it."""
    import jax.monitoring

    def on_event(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_misses":
            _just_kept.it = True

    def on_duration(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            if getattr(_just_kept, "it", False):
                for taken in list(_listeners.values()):
                    taken.append(seconds)
            _just_kept.it = False

    jax.monitoring.register_event_listener(on_event)
    jax.monitoring.register_event_duration_secs_listener(on_duration)


@functools.cache
def _versions() -> tuple:
    """What decides how long compiling takes beside the program."""
    import jax
    import jaxlib

    device = jax.devices()[0].device_kind
    flags = (os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"))
    return jax.__version__, jaxlib.__version__, device, jax.device_count(), *flags, _sources()


@functools.cache
def _sources() -> str:
    """A hash of the package's code, of which programs are made."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _read_seconds(path: Path) -> float | None:
    """The seconds that were written; None where there is no file, or a damaged one."""
    with contextlib.suppress(OSError, ValueError):
        return max(float(path.read_text()), 0.0)
    return None


def _write_seconds(path: Path, seconds: float) -> None:
    """Writes the seconds. Where the cache folder can't be written, they are not known next time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            aside.write_text(f"{seconds:.2f}")

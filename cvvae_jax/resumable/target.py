"""The folder that a long job writes shard by shard, here or in a bucket, and goes on from."""

import contextlib
import dataclasses
import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec

from cvvae_jax.config.places import at_home, is_remote
from cvvae_jax.config.reading import parse, typed
from cvvae_jax.errors import UserError

WORK = ".prepare"
"""The folder in it that is removed when all is done."""
SCRATCH = f"{WORK}/scratch"
"""What was being written to a local target; a killed process leaves something in it."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A local path, or an address that fsspec knows."""

    place: str
    work: str = WORK
    """The folder in it for what is not finished."""
    scratch_name: str = "scratch"
    """The folder in that one for what is being written; a killed process leaves something there."""

    def names(self, folder: str = "") -> set[str]:
        """Names of the files and folders in it, or in a folder of it; none where there is none.

        Raises:
            UserError: it is a file.
        """
        system, root = self._system()
        path = f"{root}/{folder}".rstrip("/")
        system.invalidate_cache()
        if system.isfile(path):
            raise UserError(f"{self.place} is a file; name a folder.")
        if not system.isdir(path):
            return set()
        found = {name.rstrip("/").rpartition("/")[2] for name in system.ls(path, detail=False)}
        return found - {""}

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """A file of it, or the bytes from a number on to another one."""
        system, root = self._system()
        return system.cat_file(f"{root}/{name}", start, stop)

    def read_object(self, name: str) -> dict[str, Any]:
        """The object in a JSON file of it.

        Raises:
            UserError: there is something else in the file.
        """
        what = f"{self.place}/{name}"
        return typed(dict[str, Any], parse(self.read(name), what), what)

    def write(self, name: str, text: str) -> None:
        """Write a text file of it, in place of one that was there."""
        with self.scratch() as folder:
            (folder / "text").write_bytes(text.encode())
            self.put(folder / "text", name)

    def put(self, file: Path, name: str) -> None:
        """Move a local file to it; under its name it is whole."""
        if not is_remote(self.place):
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
            path = os.path.join(self.place, name)
            os.replace(file, path)
            _sync_folder(os.path.dirname(path))
            return
        system, root = self._system()
        partial = f"{root}/{self.work}/partial-{uuid.uuid4().hex}"
        system.put_file(str(file), partial)
        system.mv(partial, f"{root}/{name}")

    def make(self, folder: str) -> None:
        """Make a folder of it, with those above it."""
        system, root = self._system()
        system.makedirs(f"{root}/{folder}", exist_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file or a folder of it, where there is one."""
        system, root = self._system()
        if system.exists(f"{root}/{name}"):
            system.rm(f"{root}/{name}", recursive=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A local folder for files to `put`; what stays in it is removed."""
        # On the disk of a local target, since only there a file is moved at once.
        above = None
        if not is_remote(self.place):
            above = os.path.join(self.place, self.work, self.scratch_name)
        if above:
            os.makedirs(above, exist_ok=True)
        folder = tempfile.mkdtemp(dir=above)
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _system(self) -> tuple[fsspec.AbstractFileSystem, str]:
        system, root = fsspec.core.url_to_fs(self.place)
        return system, root.rstrip("/")


def _sync_folder(folder: str) -> None:
    """Keeps the order of renames where the power fails."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


Track = Callable[..., Iterable]
"""Shows progress: `track(items, total=.., unit=..)` gives the items."""
GOES_ON = "What is finished stays, and the same command goes on."


def absolute(place: str) -> str:
    """A place that means the same wherever the command runs, and its workers."""
    if is_remote(place) or place.startswith("tfds:"):
        return place
    return os.path.abspath(at_home(place))


@contextlib.contextmanager
def named_errors(place: str) -> Iterator[None]:
    """Turns what file systems raise while a folder is written into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Remote file systems have errors of their own.
        if isinstance(error, OSError) or is_remote(place):
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise UserError(f"{place} cannot be finished: {reason}. {GOES_ON}") from error
        raise


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Makes SIGTERM the same as Ctrl-C, with a message for both."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupt) if is_main else None
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(GOES_ON) from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt

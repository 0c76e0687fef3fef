"""The folder that a long job writes shard by shard, and that a later run of it goes on from.

The folder is local or in a bucket.
"""

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
from cvvae_jax.resumable.files import sync

WORK = ".prepare"
"""The folder in a target for unfinished work; it is removed when all is done."""
SCRATCH = f"{WORK}/scratch"
"""The folder in a local target for files that are being written; a killed process leaves files
there."""


@dataclasses.dataclass(frozen=True)
class Target:
    """The folder of a job: a local path, or an address that fsspec knows."""

    place: str
    work: str = WORK
    """Name of the folder in it for unfinished work."""
    scratch_name: str = "scratch"
    """Name of the folder in `work` for files that are being written; a killed process leaves files
    there."""

    def names(self, folder: str = "") -> set[str]:
        """Names of the files and folders in the target, or in a folder of it; an empty set where
        there is no such folder.

        Raises:
            UserError: the target is a file.
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
        """The bytes of a file of the target, all or those from `start` to `stop`."""
        system, root = self._system()
        return system.cat_file(f"{root}/{name}", start, stop)

    def read_object(self, name: str) -> dict[str, Any]:
        """The JSON object in a file of the target.

        Raises:
            UserError: the file holds something else.
        """
        what = f"{self.place}/{name}"
        return typed(dict[str, Any], parse(self.read(name), what), what)

    def write(self, name: str, text: str) -> None:
        """Write a text file of the target, or replace it."""
        with self.scratch() as folder:
            (folder / "text").write_bytes(text.encode())
            self.put(folder / "text", name)

    def put(self, file: Path, name: str) -> None:
        """Move a local file into the target; it gets its name once it is complete."""
        if not is_remote(self.place):
            path = Path(self.place, name)
            sync(file)
            os.replace(file, path)
            sync(path.parent)  # keeps the order of renames where the power fails
            return
        system, root = self._system()
        partial = f"{root}/{self.work}/partial-{uuid.uuid4().hex}"
        system.put_file(str(file), partial)
        system.mv(partial, f"{root}/{name}")

    def make(self, folder: str) -> None:
        """Make a folder in the target, and the folders above it."""
        system, root = self._system()
        system.makedirs(f"{root}/{folder}", exist_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file or a folder of the target, if it exists."""
        system, root = self._system()
        if system.exists(f"{root}/{name}"):
            system.rm(f"{root}/{name}", recursive=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A local folder in which to write files for `put`; it is removed at the end."""
        # On the disk of a local target, where moving a file is a renaming.
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


Track = Callable[..., Iterable]
"""Shows progress: `track(items, total=.., unit=..)` yields the items."""
GOES_ON = "What is finished stays, and the same command goes on."


def absolute(place: str) -> str:
    """A place in words that don't depend on the working directory: local paths become absolute."""
    if is_remote(place) or place.startswith("tfds:"):
        return place
    return os.path.abspath(at_home(place))


@contextlib.contextmanager
def named_errors(place: str) -> Iterator[None]:
    """Turns whatever a file system raises into a UserError that names the folder being written."""
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
    """Makes SIGTERM raise KeyboardInterrupt, as Ctrl-C does; the message says how to go on."""
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

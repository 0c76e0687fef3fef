"""Memory of this process, as Linux sees it."""

import resource
import threading
from pathlib import Path


class Added:
    """The most that the process took while this is open, beyond what it had before."""

    def __enter__(self) -> "Added":
        self._before = self._most = _resident_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def bytes(self) -> int:
        """Beyond what it had before."""
        return self._most - self._before

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self._most = max(self._most, _resident_bytes())


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()

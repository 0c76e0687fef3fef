"""One folder of compiled programs for all tests, their processes, and the next runs."""

import os
import tempfile
import time
from pathlib import Path

import jax
from jax._src.lru_cache import LRUCache

from cvvae_jax import compiling

# What a week's changes leave behind; the oldest go first.
MOST_BYTES = 2 << 30
_PART = ".part"
_LONG = 60.0
"""Seconds that no entry takes to be written."""


def use(folder: Path) -> None:
    """Programs go to and come from the folder, here and in processes that are started later."""
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    LRUCache.put = put_whole


def put_whole(cache: LRUCache, key: str, value: bytes) -> None:
    """Replaces JAX's `put`: another process that reads meanwhile sees all or nothing."""
    path = Path(cache.path, f"{key}-cache")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=_PART)
    try:
        with open(handle, "wb") as file:
            file.write(value)
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Takes away the oldest programs of too many, and what a killed process left unfinished."""
    compiling.tidy(folder, most_bytes=MOST_BYTES)
    for path in folder.glob(f"*{_PART}"):
        if time.time() - path.stat().st_mtime > _LONG:  # nobody writes it any more
            path.unlink(missing_ok=True)

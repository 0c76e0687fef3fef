"""One folder of compiled programs for all tests, their processes, and the next runs."""

import os
import tempfile
from pathlib import Path

import jax
from jax._src import compilation_cache
from jax._src.lru_cache import LRUCache

# What a week's changes leave behind; the oldest go first.
MOST_BYTES = 2 << 30


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
    """In place of JAX's `put`: another process that reads meanwhile sees all or nothing."""
    path = Path(cache.path, f"{key}-cache")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with open(handle, "wb") as file:
        file.write(value)
    os.replace(part, path)


def tidy(folder: Path) -> None:
    """Takes away what a killed process left unfinished, and the oldest programs of too many."""
    kept = 0
    for path in sorted(folder.iterdir(), key=lambda path: -path.stat().st_mtime):
        kept += path.stat().st_size
        if kept > MOST_BYTES or not _is_whole(path):
            path.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    try:
        compilation_cache.decompress_executable(path.read_bytes())
    except Exception:  # zlib's or zstandard's, by what is installed
        return False
    return True

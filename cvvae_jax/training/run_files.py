"""Files of a run folder, which are whole or as they were before, whatever ends the process."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file beside its place and then moves it there; text as UTF-8.

    Raises:
        OSError: the disk is full or not writable; what was there is there still.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object that a file holds; None where it is none, since it was cut or damaged.

    Raises:
        OSError: it isn't there, or can't be read now.
    """
    return parse_json(path.read_bytes())


def parse_json(text: bytes) -> dict[str, Any] | None:
    """The object that a text is; None where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # of which errors of UTF-8 are one kind
        return None
    return found if isinstance(found, dict) else None

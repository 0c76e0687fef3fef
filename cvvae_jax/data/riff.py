"""Whether an AVI file was cut off, by the sizes that its lists state."""

import os
import struct
from io import BufferedIOBase

_HEADER = struct.Struct("<4sI4s")  # a name, a size, and the type of a RIFF or of a LIST
_UNSTATED = (0, 2**32 - 1)  # a recording that was not finished


def is_cut_off(file: BufferedIOBase) -> bool:
    """Whether a list of frames reaches beyond the end."""
    end, start = file.seek(0, os.SEEK_END), file.seek(0)
    while start + _HEADER.size <= end:
        file.seek(start)
        name, size, kind = _HEADER.unpack(file.read(_HEADER.size))
        if name == b"RIFF":  # what is in it comes next
            start += _HEADER.size
            continue
        start += 8 + size + size % 2
        if (name, kind) == (b"LIST", b"movi") and (size in _UNSTATED or start > end):
            return size not in _UNSTATED
    return False

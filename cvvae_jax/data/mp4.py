"""Whether an MP4 or QuickTime file was cut off, by the sizes that its boxes state (ISO/IEC
14496-12, section 4.2)."""

import os
import struct
from io import BufferedIOBase

_HEADER, _LONG_SIZE = struct.Struct(">I4s"), struct.Struct(">Q")


def is_cut_off(file: BufferedIOBase) -> bool:
    """Whether the list of frames, that of the whole file or of a fragment, or the data of a
    fragment reaches beyond the end or is missing there.

    FFmpeg takes what is there of such a list for all of it. Data of a file in one piece are not
    looked at, since it is known which frames they ought to hold.
    """
    end, is_fragment, name = file.seek(0, os.SEEK_END), False, b""
    start = file.seek(0)
    while (box := _box(file)) is not None:
        name, size = box
        is_fragment = is_fragment or name == b"moof"
        if start + size > end:
            return name in (b"moov", b"moof") or (is_fragment and name == b"mdat")
        start = file.seek(start + size)
    return name == b"moof"


def _box(file: BufferedIOBase) -> tuple[bytes, int] | None:
    """The name and the size of the box that begins here; None where none does, or where it is said
    to be the last one."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    size, name = _HEADER.unpack(header)
    least = _HEADER.size
    if size == 1:
        long_size = file.read(_LONG_SIZE.size)
        if len(long_size) < _LONG_SIZE.size:
            return None
        (size,) = _LONG_SIZE.unpack(long_size)
        least += _LONG_SIZE.size
    return (name, size) if size >= least else None

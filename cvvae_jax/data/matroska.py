"""Whether a Matroska or WebM file was cut off, by the sizes that its elements state (RFC 8794)."""

import os
from io import BufferedIOBase

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675


def is_cut_off(file: BufferedIOBase) -> bool:
    """Whether frames are missing at the end of a Matroska file.

    They are where a cluster reaches beyond the end, or where the file ends between two elements of
    a segment that goes on. A cut through what follows the clusters takes no frame, and a segment
    or a cluster of unstated size (a live recording) promises none.
    """
    end, segment_end, has_frames = file.seek(0, os.SEEK_END), 0, False
    file.seek(0)
    while (start := file.tell()) < max(end, segment_end):
        name, size = _element(file)
        if size is None:  # what ends here is no element
            return start < segment_end
        body = file.tell()
        if name == _SEGMENT:
            segment_end = 0 if _is_unstated(size) else body + size[0]
        elif _is_unstated(size):
            return False
        elif body + size[0] > end:
            return name == _CLUSTER or not has_frames
        else:
            has_frames = has_frames or name == _CLUSTER
            file.seek(size[0], os.SEEK_CUR)
    return False


def _element(file: BufferedIOBase) -> tuple[int | None, tuple[int, int] | None]:
    """The name of the element that begins here, and its size with the bits that it is stored in."""
    name = _integer(file)
    size = _integer(file) if name else None
    if size is None:
        return None, None
    value, bits = size
    return name[0], (value & ((1 << bits) - 1), bits)


def _integer(file: BufferedIOBase) -> tuple[int, int] | None:
    """An integer of variable length with its marker, and its bits without: the zeros that the first
    byte begins with say how many bytes follow. None where there is none."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    rest = file.read(more)
    if len(rest) < more:
        return None
    return int.from_bytes(first + rest, "big"), 7 * (1 + more)


def _is_unstated(size: tuple[int, int]) -> bool:
    value, bits = size
    return value == (1 << bits) - 1

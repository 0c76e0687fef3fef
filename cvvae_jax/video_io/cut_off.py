"""Whether an MP4, Matroska or AVI file was cut off, by the sizes that the file itself states.

FFmpeg takes the end of such a file for the end of the video.
"""

import os
import struct
from io import BufferedIOBase

_BOX_HEADER, _LONG_SIZE = struct.Struct(">I4s"), struct.Struct(">Q")


def _mp4_is_cut_off(file: BufferedIOBase) -> bool:
    """Whether a list of frames (`moov`, or `moof` of a fragment) or the data of a fragment is
    missing or reaches beyond the end of the file.

    FFmpeg takes the rest of such a list for the whole list. The data of a file without fragments
    are not checked: its list of frames tells which of them are missing.
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
    """The name and the size of the box that begins here; None where no box begins, or the box is
    marked as the last one."""
    header = file.read(_BOX_HEADER.size)
    if len(header) < _BOX_HEADER.size:
        return None
    size, name = _BOX_HEADER.unpack(header)
    least = _BOX_HEADER.size
    if size == 1:
        long_size = file.read(_LONG_SIZE.size)
        if len(long_size) < _LONG_SIZE.size:
            return None
        (size,) = _LONG_SIZE.unpack(long_size)
        least += _LONG_SIZE.size
    return (name, size) if size >= least else None


_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675


def _matroska_is_cut_off(file: BufferedIOBase) -> bool:
    """Whether frames are missing at the end of a Matroska file.

    Frames are missing where a cluster reaches beyond the end, or where the file ends between two
    elements although its segment goes on. A cut behind the clusters loses no frame, and a segment
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
    """The name of the element that begins here, and (size, bits in which the size is stored)."""
    name = _integer(file)
    size = _integer(file) if name else None
    if size is None:
        return None, None
    value, bits = size
    return name[0], (value & ((1 << bits) - 1), bits)


def _integer(file: BufferedIOBase) -> tuple[int, int] | None:
    """An integer of variable length, with its marker bit, and the number of its bits without the
    marker; None where no integer begins. The leading zeros of the first byte are the number of
    bytes that follow."""
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


_LIST_HEADER = struct.Struct("<4sI4s")  # a name, a size, and the type of a RIFF or of a LIST
_UNSTATED = (0, 2**32 - 1)  # sizes in a recording that was not finished


def _riff_is_cut_off(file: BufferedIOBase) -> bool:
    """Whether the list of frames of an AVI file reaches beyond its end."""
    end, start = file.seek(0, os.SEEK_END), file.seek(0)
    while start + _LIST_HEADER.size <= end:
        file.seek(start)
        name, size, kind = _LIST_HEADER.unpack(file.read(_LIST_HEADER.size))
        if name == b"RIFF":  # its content comes next
            start += _LIST_HEADER.size
            continue
        start += 8 + size + size % 2
        if (name, kind) == (b"LIST", b"movi") and (size in _UNSTATED or start > end):
            return size not in _UNSTATED
    return False


_CHECKS = {"mov": _mp4_is_cut_off, "matroska": _matroska_is_cut_off, "avi": _riff_is_cut_off}


def is_cut_off(file: BufferedIOBase, demuxer: str) -> bool:
    """Whether frames are missing at the end of a file; False for other demuxers than "mov",
    "matroska" and "avi", whose containers state no sizes.

    Args:
        file: the open file.
        demuxer: the first of FFmpeg's names of the demuxer that reads the file.
    """
    check = _CHECKS.get(demuxer)
    return check is not None and check(file)

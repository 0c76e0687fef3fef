"""Which media file some bytes are, by their first bytes."""

_PREFIXES = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF87a", ".gif"),
    (b"GIF89a", ".gif"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"II+\0", ".tif"),
    (b"MM\0+", ".tif"),
    (b"FLV\x01", ".flv"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ".wmv"),
    (b"\0\0\x01\xba", ".mpg"),
    (b"\0\0\x01\xb3", ".mpg"),
)
_RIFF = {b"AVI ": ".avi", b"WEBP": ".webp"}
_QUICKTIME_BOXES = (b"moov", b"mdat", b"wide", b"pnot")
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
_TS_PACKET = 188


def media_suffix(data: bytes) -> str | None:
    """The suffix that a media file has by its first bytes; 512 are enough.

    Returns:
        One that names of videos (`containers.VIDEO_SUFFIXES`) or of images (`IMAGE_SUFFIXES`) end
        in, such as ".mp4" or ".jpg"; None for audio and for whatever else is not known.
    """
    head = bytes(data[:1024])
    for prefix, suffix in _PREFIXES:
        if head.startswith(prefix):
            return suffix
    if head[4:8] == b"ftyp":
        return _iso_suffix(head)
    if head[4:8] in _QUICKTIME_BOXES:  # as QuickTime wrote them before there was `ftyp`
        return ".mov"
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12])
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return ".webm" if b"webm" in head[:64] else ".mkv"
    if head.startswith(b"OggS"):
        return ".ogv" if b"theora" in head else None
    # Two letters and one byte are too little: others begin with them by chance.
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return ".bmp"
    if len(head) > 2 * _TS_PACKET and head[: 2 * _TS_PACKET + 1 : _TS_PACKET] == b"GGG":
        return ".ts"
    return None


def _iso_suffix(head: bytes) -> str | None:
    """Of the family of MP4, by the brands that its first box lists."""
    size = int.from_bytes(head[:4], "big")
    major = head[8:12]
    brands = {major, *(head[i : i + 4] for i in range(16, min(size, len(head)), 4))}
    if brands & {b"avif", b"avis"}:
        return ".avif"
    if brands & {b"heic", b"heix", b"mif1"} or major in (b"M4A ", b"M4B "):
        return None
    return {b"qt  ": ".mov", b"M4V ": ".m4v"}.get(major, ".mp4")

"""How damage of a set of shards is noticed.

The set's index holds a CRC-32 of every record. SHA256SUMS holds the SHA-256 of each file that
describes the set; `sha256sum -c` reads it, too.
"""

import hashlib
import logging
import os
import re
import zlib
from collections.abc import Mapping

from cvvae_jax.errors import UserError
from cvvae_jax.resumable.files import file_sha256

SUMS = "SHA256SUMS"
"""The file with a line for each file that describes a set."""

_LINE = re.compile(rb"([0-9a-f]{64})  ([^/\x00\n]+)")
_log = logging.getLogger(__name__)


def record_checksum(data: bytes) -> int:
    """The CRC-32 of a record's bytes, which an index states as `crc32`."""
    return zlib.crc32(data)


def check_record(data: bytes, crc32: int | None, what: str) -> None:
    """Compare a record with the checksum in its index.

    Args:
        data: the bytes of the record.
        crc32: the checksum in the index; None where the index states none.
        what: the record's name for messages.

    Raises:
        UserError: the checksums differ.
    """
    if crc32 is not None and zlib.crc32(data) != crc32:
        raise UserError(f"{what} is damaged: its checksum is not the one in the set's index.")


def sums_text(texts: Mapping[str, str]) -> str:
    """The content of SHA256SUMS.

    Args:
        texts: the contents of the files, by name.
    """
    lines = [
        f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n"
        for name, text in sorted(texts.items())
    ]
    return "".join(lines)


def check_files(folder: str, *names: str) -> None:
    """Compare files of a local set with its SHA256SUMS.

    Older versions wrote sets without SHA256SUMS; for such a set there is only a warning.

    Raises:
        UserError: a file is missing, or is not what was written.
    """
    path = os.path.join(folder, SUMS)
    if not os.path.isfile(path):
        _log.warning("%s was written without checksums: damage can't be noticed.", folder)
        return
    with open(path, "rb") as file:
        matches = list(map(_LINE.fullmatch, file.read().splitlines()))
    if None in matches or not matches:
        raise UserError(f"{path} is damaged: it is no list of SHA-256 and names.")
    expected = {match[2].decode(errors="replace"): match[1].decode() for match in matches}
    for name in names:
        if _sha256(os.path.join(folder, name)) != expected.get(name):
            raise UserError(
                f"{os.path.join(folder, name)} is not what was written, by {SUMS} beside it: it is "
                "damaged or was changed."
            )


def _sha256(path: str) -> str | None:
    """The SHA-256 of a file; None where there is no such file."""
    try:
        return file_sha256(path)
    except FileNotFoundError:
        return None

"""What tells damage of a set of shards: a checksum of every record, in the set's index, and SHA-256
of the files that describe the set, in one file that `sha256sum -c` reads, too."""

import hashlib
import logging
import os
import re
import zlib
from collections.abc import Mapping

from cvvae_jax.errors import UserError

SUMS = "SHA256SUMS"
"""The file with a line for each file that describes a set."""

_LINE = re.compile(rb"([0-9a-f]{64})  ([^/\x00\n]+)")
_log = logging.getLogger(__name__)


def record_checksum(data: bytes) -> int:
    """What an index says of a record's bytes as `crc32`."""
    return zlib.crc32(data)


def check_record(data: bytes, crc32: int | None, what: str) -> None:
    """Compare a record with its index.

    Args:
        data: its bytes.
        crc32: what the index says; None: nothing.
        what: the record's name for messages.

    Raises:
        UserError: it is another one.
    """
    if crc32 is not None and zlib.crc32(data) != crc32:
        raise UserError(f"{what} is damaged: its checksum is not the one in the set's index.")


def sums_text(texts: Mapping[str, str]) -> str:
    """The content of SHA256SUMS.

    Args:
        texts: contents by the names of files.
    """
    lines = [
        f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n"
        for name, text in sorted(texts.items())
    ]
    return "".join(lines)


def check_files(folder: str, *names: str) -> None:
    """Compare files of a local set with its SHA256SUMS; of sets that older versions wrote, which
    have none, a line of the log says so.

    Raises:
        UserError: one is missing, or is not what was written.
    """
    path = os.path.join(folder, SUMS)
    if not os.path.isfile(path):
        _log.warning("%s was written without checksums: damage of it cannot be told.", folder)
        return
    with open(path, "rb") as file:
        matches = list(map(_LINE.fullmatch, file.read().splitlines()))
    if None in matches or not matches:
        raise UserError(f"{path} is damaged: it is no list of SHA-256 and names.")
    expected = {match[2].decode(errors="replace"): match[1].decode() for match in matches}
    for name in names:
        if _digest(os.path.join(folder, name)) != expected.get(name):
            raise UserError(
                f"{os.path.join(folder, name)} is not what was written, by {SUMS} beside it: it is "
                "damaged or was changed."
            )


def _digest(path: str) -> str | None:
    """None where there is no such file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None

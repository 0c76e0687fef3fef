"""Locks for folders that one process at a time may write.

The lock is flock's: the system releases it when the process ends, for whatever reason. It also
keeps out the other machines of a network file system where that supports locks: NFS 4 does, and
Lustre does where it is mounted with `flock`. A bucket that is mounted as a folder keeps out only
processes of the same machine. The text in the lock file, which stays when the process has ended,
is for people.
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cvvae_jax.errors import UserError

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(file: Path | str, busy: str) -> Iterator[None]:
    """Holds a lock for as long as the block runs.

    Args:
        file: the lock file, in a local folder that exists; the file is made, and stays.
        busy: the beginning of the message where another process holds the lock, without a full
            stop.

    Raises:
        UserError: another process holds the lock; the message ends with which one.
        OSError: the file can't be made.
    """
    with open(file, "a+", encoding="utf-8", errors="replace") as opened:
        taken = take(opened)
        if taken is False:
            raise UserError(f"{busy}{_holder(opened)}")
        if taken is None:
            _log.warning(
                "the file system of %s has no locks: a second process that writes there would not "
                "be noticed",
                file,
            )
        opened.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        opened.write(f"process {os.getpid()} on {socket.gethostname()}, since {since}\n")
        opened.flush()
        yield


def take(opened: IO) -> bool | None:
    """Tries to lock an open file, for as long as it stays open: whether that could be done; None
    where its file system has no locks.

    Raises:
        OSError: the file can't be locked for another reason.
    """
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return None
    return True


def _holder(opened: IO[str]) -> str:
    """Which process holds the lock, and what to do if that process no longer exists."""
    opened.seek(0)
    said = " ".join(opened.read(1000).split())
    advice = (
        f"If that process no longer exists, as after the loss of its machine, remove {opened.name}."
    )
    return f" ({said}). {advice}" if said else f". {advice}"

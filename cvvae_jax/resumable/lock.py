"""Folders that one process at a time may write.

The lock is the system's (flock): it ends with its process, whatever ends that, and holds among the
machines of a network file system as far as this one passes locks on. NFS 4 does; Lustre does where
it is mounted with `flock`; a bucket that is mounted as a folder knows only the processes of its own
machine. What the lock file says is for people: it stays when its process has ended.
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
    """Keeps other processes of this machine, and those of shared disks, out.

    Args:
        file: of a local folder that is there; it is made, and stays.
        busy: the sentence that says where another process is in, without its full stop.

    Raises:
        UserError: another process is in; the message ends with which one.
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
    """What the process that is in has left in the file, and what to do if it isn't there."""
    opened.seek(0)
    said = " ".join(opened.read(1000).split())
    advice = f"If it is no more, as after the loss of its machine, remove {opened.name}."
    return f" ({said}). {advice}" if said else f". {advice}"

"""Small files of the state directory, of which a crash leaves the old one or the new one; and its locks."""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

_FLOCK = "hhqqi4x"
"""C's `struct flock`: type, whence, start, length, pid."""


def write_durably(path: Path, body: bytes) -> None:
    """Replace the file; blocks for a disk's flush.

    Raises:
        OSError: the disk does not take it; the old file stays.
    """
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def lock_holder(path: Path) -> int | None:
    """Return the process that holds the lock on that file, None if none does; 0: it is in another container.

    Never of a lock of this very process: to close any descriptor of the file gives that up.

    Raises:
        OSError: there is no such file, or it may not be read.
    """
    lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # About a shared lock, as that needs no right to write: who holds it holds it alone.
        asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
    finally:
        os.close(lock)
    return None if kind == fcntl.F_UNLCK else max(pid, 0)

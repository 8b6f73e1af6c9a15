"""The state directory's files: small ones, of which a crash leaves the old one or the new one; and its locks.

Whatever somebody has put where one of them is expected, nothing here blocks, or reads without end; and no
link is followed, nor another user's file believed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edge_ws.errors import EdgeWsError
from edge_ws.ownership import others_may_read, others_may_write, require_own_file, user_name
from edge_ws.streams import open_to_write

if TYPE_CHECKING:
    from edge_ws.worker.faults import Faults

LONGEST = 4 * 1024 * 1024
"""Bytes of a small file, at most; ours are far smaller."""
_FOREIGN = frozenset(
    {errno.EINVAL, errno.EFBIG, errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.ENXIO, errno.EPERM}
)
"""Errors of opening what is none of our files; after any other one it may be sound all the same."""
_T = TypeVar("_T")

_FLOCK = "hhqqi4x"
"""C's `struct flock`: type, whence, start, length, pid."""


def open_plain(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file; return its descriptor.

    Raises:
        OSError: it cannot be opened, or it is something else: to read a named pipe would take for ever.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "Not a regular file", str(path))


def open_own(path: Path, flags: int = os.O_RDONLY, *, in_place: bool = False) -> int:
    """Open a regular file that is this user's (or root's) and no link; return its descriptor.

    Args:
        path: of the file.
        flags: as for `os.open`.
        in_place: it is to be written over: then it may have no other name, as that may be of another's file.

    Raises:
        OSError: as `open_plain`; or it is not like that.
    """
    descriptor = open_plain(path, flags | os.O_NOFOLLOW)
    try:
        require_own_file(descriptor, path, in_place=in_place)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_small(path: Path) -> bytes:
    """Return all that is in a small file.

    Raises:
        OSError: as `open_own`; or it is too large to be one of ours.
    """
    with os.fdopen(open_own(path), "rb") as file:
        body = file.read(LONGEST + 1)
    if len(body) > LONGEST:
        raise OSError(errno.EFBIG, f"Larger than {LONGEST // 2**20} MiB", str(path))
    return body


def read_sound(path: Path, what: str, faults: Faults, read: Callable[[bytes], _T]) -> _T | None:
    """Return what `read` makes of a small file, None if there is none, or nothing sound: that is set aside.

    Raises:
        OSError: it cannot be read now, and may be sound.
    """
    try:
        return read(read_small(path))
    except OSError as error:
        if not os.path.lexists(path):
            return None
        if error.errno not in _FOREIGN:
            raise
        faults.odd(what, path, error.strerror or str(error), set_aside(path))
    except (EdgeWsError, ValueError, LookupError, TypeError) as error:
        faults.odd(what, path, f"its content is not valid: {error}", set_aside(path))
    return None


def read_if_sound(path: Path, what: str, faults: Faults, read: Callable[[bytes], _T]) -> _T | None:
    """As `read_sound`; also None if it cannot be read now: that is noted, and it stays."""
    try:
        return read_sound(path, what, faults, read)
    except OSError as error:
        told = error.strerror or str(error)
        faults.odd(
            what,
            path,
            f"it cannot be read: {told}",
            "left in place: make it readable, then restart the worker",
        )
        return None


def make_folder(path: Path, what: str, faults: Faults) -> None:
    """Make a folder for this user alone, if it is not there; whatever else is there is set aside.

    Raises:
        OSError: it cannot be made.
    """
    if os.path.lexists(path):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            faults.odd(what, path, "it is not a folder", set_aside(path))
        elif found.st_uid != os.geteuid():
            faults.odd(what, path, f"it is {user_name(found.st_uid)}'s", set_aside(path))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if others_may_read(found := path.lstat()) or others_may_write(found):
        path.chmod(0o700)


def set_aside(path: Path) -> str:
    """Rename what is in the way; return what has become of it, for people."""
    aside = path.with_suffix(".bad")
    number = 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_suffix(f".bad{number}")
    try:
        path.rename(aside)
    except OSError as error:
        return f"it cannot be moved out of the way ({error.strerror}): delete it"
    return f"moved to {aside.name}: inspect it, then delete it"


def write_durably(path: Path, body: bytes) -> None:
    """Replace the file; blocks for a disk's flush.

    Raises:
        OSError: the disk does not take it; the old file stays.
    """
    temporary = path.with_suffix(".tmp")
    try:
        with os.fdopen(open_to_write(temporary), "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def open_lock(path: Path) -> int:
    """Open the file that a lock is on, made if it is absent; return its descriptor.

    Raises:
        OSError: it cannot be made, or is a link, no file or another user's.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    return open_own(path, os.O_RDWR)


def lock_holder(path: Path) -> int | None:
    """Return the process that holds the lock on that file, None if none does; 0: it is in another container.

    Never of a lock of this very process: to close any descriptor of the file gives that up.

    Raises:
        OSError: there is no such file, it may not be read, or it is neither root's nor of the folder's owner.
    """
    lock = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(lock).st_uid not in {0, path.parent.stat().st_uid}:
            raise OSError(errno.EPERM, "Belongs to another user", str(path))
        # About a shared lock, as that needs no right to write: who holds it holds it alone.
        asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
    finally:
        os.close(lock)
    return None if kind == fcntl.F_UNLCK else max(pid, 0)

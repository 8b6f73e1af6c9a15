"""The worker's state directory: small files that survive a crash, its locks, and what the worker remembers.

Whatever somebody has put where one of them is expected, nothing here blocks, or reads without end.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import stat
import struct
from collections.abc import (
    Callable,
)
from contextlib import (
    suppress,
)
from dataclasses import (
    asdict,
    replace,
)
from pathlib import (
    Path,
)
from typing import (
    TypeVar,
)

import orjson

from edge_ws.errors import (
    EdgeWsError,
    UsageError,
)
from edge_ws.protocol.codec import (
    reader,
)
from edge_ws.protocol.frames import (
    Asked,
)
from edge_ws.protocol.ids import (
    SiteId,
    new_id,
)
from edge_ws.streams import (
    open_to_write,
)
from edge_ws.worker.faults import (
    Faults,
)
from edge_ws.worker.wishes import (
    COMMENT_LENGTH,
    Request,
)

LONGEST = 4 * 1024 * 1024
"""Bytes of a small file, at most; ours are far smaller."""
_FOREIGN = frozenset({errno.EINVAL, errno.EFBIG, errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.ENXIO})
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


def read_small(path: Path) -> bytes:
    """Return all that is in a small file.

    Raises:
        OSError: as `open_plain`; or it is too large to be one of ours.
    """
    with os.fdopen(open_plain(path), "rb") as file:
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
    """Make a folder of our own, if it is not there; whatever else is there is set aside.

    Raises:
        OSError: it cannot be made.
    """
    if os.path.lexists(path) and not path.is_dir():
        faults.odd(what, path, "it is not a folder", set_aside(path))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


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


def lock_holder(path: Path) -> int | None:
    """Return the process that holds the lock on that file, None if none does; 0: it is in another container.

    Never of a lock of this very process: to close any descriptor of the file gives that up.

    Raises:
        OSError: there is no such file, or it may not be read.
    """
    lock = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # About a shared lock, as that needs no right to write: who holds it holds it alone.
        asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
    finally:
        os.close(lock)
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


log = logging.getLogger(__name__)

_LOCK = "lock"
_ASKED = "asked"
_ID = re.compile(r"[!-~]{1,36}")
"""What may be an id on the wire."""
_ASKED_READER = reader(Asked)


def daemon_of(directory: Path) -> int | None:
    """Return the process id of the daemon that holds a state directory; see `files.lock_holder`."""
    return lock_holder(directory / _LOCK)


def held_beside(directory: Path) -> list[Path]:
    """Return the directories beside that one which daemons hold; those of other users cannot be seen."""
    found = []
    with suppress(OSError):
        for one in sorted(directory.parent.iterdir()):
            with suppress(OSError):
                if one != directory and daemon_of(one) is not None:
                    found.append(one)
    return found


class StateDirectory:
    """One state directory, held by one daemon at a time."""

    def __init__(self, path: Path) -> None:
        """Make the directory if it is absent, and lock it for this process.

        Raises:
            UsageError: another daemon holds it, or it cannot be made or written to.
        """
        self.path = path
        self.faults = Faults()
        """What is odd here, and all that goes wrong in this life of the process."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            sentence = f"the state directory {path} cannot be used: {error.strerror}; see --state-dir"
            raise UsageError(sentence) from error
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"another worker runs with the state directory {path}; stop it, or give this one another "
                "--state-dir (and name)"
            ) from error
        self.site = SiteId(self._read_or_make("site", new_id()))

    def _read_or_make(self, name: str, value: str) -> str:
        path = self.path / name
        try:
            found = read_sound(path, "this site's id; it is a new site now", self.faults, _id)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}; see --state-dir") from error
        if found is not None:
            return found
        try:
            write_durably(path, f"{value}\n".encode("ascii"))
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}; see --state-dir") from error
        return value

    def is_proven(self, url: str) -> bool:
        """Tell whether a credential has worked from here at that URL."""
        return self._proof(url) in self._proofs()

    def prove(self, url: str) -> None:
        """Note that the credential has worked at that URL."""
        proofs = self._proofs() | {self._proof(url)}
        try:
            write_durably(self.path / "proven", ("\n".join(sorted(proofs)) + "\n").encode("ascii"))
        except OSError as error:
            log.warning("%s does not take that the token has worked: %s", self.path, error.strerror)

    def _proofs(self) -> set[str]:
        found = read_if_sound(
            self.path / "proven",
            "the list of centres that have taken the token",
            self.faults,
            lambda body: body.decode("ascii", "replace").split(),
        )
        return {one for one in found or () if one.isascii()}

    def request(self) -> Request | None:
        """Return what was last asked for on this host; what is no request is set aside as `.bad`."""
        return read_if_sound(self.path / _ASKED, "what was last asked for on this host", self.faults, _asked)

    def keep_request(self, request: Request) -> None:
        """Keep it across restarts.

        Raises:
            EdgeWsError: the disk does not take it.
        """
        try:
            write_durably(
                self.path / _ASKED, orjson.dumps({**asdict(request.asked), "settled": request.settled})
            )
        except OSError as error:
            raise EdgeWsError(
                f"{self.path} does not take what was asked for ({error.strerror}); nothing has changed"
            ) from error

    @staticmethod
    def _proof(url: str) -> str:
        return hashlib.sha256(url.encode()).hexdigest()


def _id(body: bytes) -> str:
    found = body.decode("ascii", "replace").strip()
    if not _ID.fullmatch(found):
        raise ValueError("no id")
    return found


def _asked(body: bytes) -> Request:
    told = orjson.loads(body)
    asked = _ASKED_READER(told, "asked")
    # An older release writes no such mark.
    return Request(replace(asked, comment=asked.comment[:COMMENT_LENGTH]), settled=bool(told.get("settled")))

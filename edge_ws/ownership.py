"""Which folders, files and peers of this host are trusted: this user's own and root's.

A folder is trusted if no other user can write to it, or put another one in its place. Knows no worker and no
job host; reads only, apart from `make_own_folder`.
"""

from __future__ import annotations

import errno
import os
import pwd
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge_ws.errors import UsageError

_PEER = struct.Struct("3i")
"""C's `struct ucred`: process, user, group."""
_LINKS = 40
"""So many symbolic links a path may have, as for the kernel."""
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH


def is_trusted(uid: int) -> bool:
    """Tell whether it is this process's user, or root."""
    return uid in {0, os.geteuid()}


def peer_uid(connection: socket.socket) -> int:
    """Return whose process is at the other end of a unix socket: who listens or has connected."""
    peer: int = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1]
    return peer


def require_own_file(descriptor: int, path: Path, *, in_place: bool) -> None:
    """Make sure that an open file is no other user's; one to be written over has no other name elsewhere.

    Raises:
        OSError: it is another user's, or has other names.
    """
    found = os.fstat(descriptor)
    if not is_trusted(found.st_uid):
        raise OSError(errno.EPERM, f"Belongs to {user_name(found.st_uid)}", str(path))
    if in_place and found.st_nlink > 1:
        raise OSError(errno.EMLINK, "Has another name as well (a hard link)", str(path))


def others_may_write(found: os.stat_result) -> bool:
    """Tell whether another user than the owner may write to it, as far as its mode says."""
    return bool(found.st_mode & _OTHERS_WRITE)


def others_may_read(found: os.stat_result) -> bool:
    """Tell whether another user than the owner may read it, as far as its mode says."""
    return bool(found.st_mode & _OTHERS_READ)


def user_name(uid: int) -> str:
    """Return how a sentence names a user; in a container one may have no account."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


# Folders


def make_own_folder(path: Path, what: str) -> None:
    """Make a folder for this user alone, if it is not there; make sure that no other user has a say in it.

    Args:
        path: of the folder.
        what: it is, for the sentence.

    Raises:
        UsageError: another user could read, change or replace what is kept there.
        OSError: it cannot be made.
    """
    # Before anything is made: not to be led by another user's link to where a folder does harm.
    require_own_folder(path, what)
    for one in reversed(path.parents):
        if not one.exists():
            one.mkdir(0o755, exist_ok=True)
    path.mkdir(0o700, exist_ok=True)
    require_own_folder(path, what)


def why_unsafe(path: Path) -> str:
    """Return why other users have a say in what is kept in a folder, and what to do; empty: they have none.

    What of it is not there yet is passed over.

    Raises:
        OSError: it cannot be looked at.
    """
    for step in _steps(path):
        if why := _why_foreign(step) or (_why_not_own(step) if step.is_end else _why_replaceable(step)):
            return why
    return ""


def require_own_folder(path: Path, what: str) -> None:
    """Make sure that no other user has a say in what is kept in a folder, as far as it is there.

    Raises:
        UsageError: one has.
        OSError: it cannot be looked at.
    """
    if why := why_unsafe(path):
        raise UsageError(f"{what} {path} is not safe from other users: {why}")


class _Step(NamedTuple):
    """One folder, or link, on a path."""

    path: Path
    found: os.stat_result
    above: os.stat_result
    """The folder that it is in."""
    is_end: bool
    """The path ends here."""


def _steps(path: Path) -> Iterator[_Step]:
    """Yield what a path leads through, as the kernel walks it, as far as it is there."""
    here, links = Path("/"), 0
    left = list(reversed(path.absolute().parts[1:]))
    while left:
        name = left.pop()
        there = here.parent if name == ".." else here / name
        try:
            found, above = there.lstat(), here.lstat()
        except FileNotFoundError:
            return
        is_link = stat.S_ISLNK(found.st_mode)
        yield _Step(there, found, above, is_end=not left and not is_link)
        if not is_link:
            here = there
            continue
        links += 1
        if links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = there.readlink()
        if target.is_absolute():
            here = Path("/")
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)


_ANOTHER = "give another place with --state-dir"


def _why_foreign(step: _Step) -> str:
    """Tell of a link, or of what stands where everybody may put something, that it is another user's."""
    if is_trusted(step.found.st_uid):
        return ""
    if stat.S_ISLNK(step.found.st_mode):
        return f"{step.path} is a symbolic link of {user_name(step.found.st_uid)}; {_ANOTHER}"
    if step.above.st_mode & stat.S_IWOTH and not step.is_end:
        owner = user_name(step.found.st_uid)
        return f"{step.path} is {owner}'s, in a folder that is open to everybody; {_ANOTHER}"
    return ""


def _why_replaceable(step: _Step) -> str:
    """Tell of a folder above that others may put another folder in the place of ours.

    A group that may write there has been let in by the owner, as with a volume in Kubernetes. A process that
    is not root may be in a container, under a user id of its own in another one's folder.
    """
    path, found = step.path, step.found
    if stat.S_ISLNK(found.st_mode):
        return ""
    if os.geteuid() == 0 and found.st_uid != 0:
        owner = user_name(found.st_uid)
        return (
            f"{path} belongs to {owner}, who could lead root astray; run the worker as {owner}, or {_ANOTHER}"
        )
    # The root of a container's volume is open to all, and there is nobody else.
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX and not path.is_mount():
        return f"everybody may replace what is in {path}; run: chmod o-w {path}"
    return ""


def _is_volume(step: _Step) -> bool:
    """Tell whether it is the root of a volume that was made for a container: root's, and open to its user.

    A folder for everybody's temporary files may be mounted too; it is sticky.
    """
    found = step.found
    return (
        os.geteuid() != 0 and found.st_uid == 0 and not found.st_mode & stat.S_ISVTX and step.path.is_mount()
    )


def _why_not_own(step: _Step) -> str:
    path, found = step.path, step.found
    if not stat.S_ISDIR(found.st_mode):
        return ""  # To use it will tell.
    if _is_volume(step):
        return ""
    within = "or give a folder in it that is not there yet: it is made for this user alone"
    if found.st_uid != os.geteuid():
        owner, us = user_name(found.st_uid), user_name(os.geteuid())
        return f"it belongs to {owner}, and the worker runs as {us}; run it as {owner}, {within}"
    if others_may_write(found):
        return f"others may write to it; remove what is not the worker's, and run: chmod 700 {path}; {within}"
    return ""

"""Whether the disks of this host take what a job needs: its record, and its log. Blocks for a moment."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import anyio
import anyio.to_thread

from edge_ws.streams import open_to_write
from edge_ws.worker.host_events import HostEvent, HostUp
from edge_ws.worker.readiness import DISK, Hindrances

LEAST_BYTES = 64 * 1024 * 1024
"""With less room no new jobs are taken; of a small disk, with less than LEAST_PART of it."""
LEAST_PART = 0.05
EASE = 1.25
"""So many times as much must be free until jobs are taken again."""
LOOK_S = 5.0
_PROBE = ".edge-ws-probe"
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
"""Errors of file systems, and kernels, that make no file without a name."""
_PROBE_BYTES = 4096


def fault(folder: Path, *, was_full: bool) -> str:
    """Return why the folder's disk takes no more, as a clause; empty: it does.

    Args:
        folder: need not exist: then its nearest parent counts, for room only.
        was_full: it has been so until now.
    """
    there = folder
    try:
        while not there.exists() and there != there.parent:
            there = there.parent
        disk = os.statvfs(there)
        if disk.f_flag & os.ST_RDONLY:
            return f"{folder} is on a disk that is read-only"
        total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        least = min(LEAST_BYTES, total * LEAST_PART) * (EASE if was_full else 1.0)
        if total and free < least:
            return f"only {_mib(free)} are free on the disk of {folder}; {_mib(least)} are needed"
        if there == folder and folder.is_dir():
            _try_to_write(folder)
    except OSError as error:
        # A quota shows only here.
        return f"{folder} cannot be written: {error.strerror}"
    return ""


def _try_to_write(folder: Path) -> None:
    path = folder / _PROBE
    try:
        # It has no name, so nothing can be in its place, or be left.
        descriptor = os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        with suppress(OSError):
            path.unlink()
        descriptor = open_to_write(path)
    try:
        os.write(descriptor, bytes(_PROBE_BYTES))
    finally:
        os.close(descriptor)
        with suppress(OSError):
            path.unlink()


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


class DiskWatch:
    """Looks every few seconds. `on_change` is called, on the loop, when the hindrance begins or ends."""

    def __init__(self, state: Path, hindrances: Hindrances, on_change: Callable[[], None]) -> None:
        self._state = state
        self._logs: Path | None = None
        self._hindrances = hindrances
        self._on_change = on_change
        self._is_full = False

    def heard(self, event: HostEvent) -> None:
        """Learn from a job host where its tasks' logs go."""
        if isinstance(event, HostUp) and event.log_folder:
            self._logs = Path(event.log_folder)

    async def run(self) -> NoReturn:
        """Look for ever."""
        while True:
            folders = [self._state, *([self._logs] if self._logs is not None else [])]
            found = await anyio.to_thread.run_sync(self._look, folders, abandon_on_cancel=True)
            self._judge(found)
            await anyio.sleep(LOOK_S)

    def _look(self, folders: Iterable[Path]) -> str:
        found = (fault(folder, was_full=self._is_full) for folder in folders)
        return next((one for one in found if one), "")

    def _judge(self, found: str) -> None:
        if not found and not self._is_full:
            return
        is_change = bool(found) != self._is_full
        self._is_full = bool(found)
        if found:
            self._hindrances.begin(DISK, found)
        else:
            self._hindrances.end(DISK)
        if is_change:
            self._on_change()

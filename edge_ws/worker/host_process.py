"""A job host's process seen from outside: start it, find it, tell whether it lives, clear up after it.

Knows the files that a host keeps in its directory (`<id>.lock`, `.json`, `.sock`, `.log`) and the shape of
its journal; knows nothing of the connection, of events or of what claims mean.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType
from typing import Any

import psutil

from edge_ws.errors import EdgeWsError
from edge_ws.processes import boot_id, group_lives, start_time
from edge_ws.protocol.codec import reader
from edge_ws.protocol.frames import Sentence
from edge_ws.protocol.ids import HostId
from edge_ws.worker.faults import Faults
from edge_ws.worker.files import lock_holder as _lock_holder
from edge_ws.worker.files import open_own, read_small

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RESET = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
_LOGS_KEPT = 3
_LONGEST_LINE = 300
_OF_THE_DAEMON = "EDGE_WS_"
_NO_LOCK = frozenset({errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EPERM})
"""Errors of opening what no host can have locked: nothing, a link, a socket, another user's file."""
_PASSES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO})
"""Errors after which a file may be read a moment later."""
_LONGEST_WORDS = 64 * 1024
_OF_A_PROCESS: Mapping[str, type | UnionType] = {
    "phase": str,
    "pid": int | None,
    "start_time": float | int | None,
    "task_pid": int | None,
    "task_start_time": float | int | None,
}
_MARK = "EDGE_WS_JOB_HOST"
"""In the environment of a host and of all that is started below it: the host's id."""
_UNFINISHED = ("prepared", "going", "started")


@dataclass(frozen=True, slots=True)
class HostFiles:
    """Where one host's files are."""

    directory: Path
    host: HostId

    def path(self, suffix: str) -> Path:
        """Return the host's file with that suffix."""
        return self.directory / f"{self.host}{suffix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """What a host has left on disk; empty if it left nothing that can be read."""

    host: str = ""
    fingerprint: str = ""
    boot: str = ""
    ready: bool = False
    closed: bool = False
    """It takes nothing new."""
    failure: Sentence | None = None
    jobs: tuple[Mapping[str, Any], ...] = ()
    """As they are told: any of them may be odd."""
    is_torn: bool = False
    """What it knew of its jobs is lost."""

    @property
    def has_unfinished(self) -> bool:
        """Whether a job of it neither ended nor failed to start."""
        return self.is_torn or any(job.get("phase") in _UNFINISHED for job in self.jobs)


@dataclass(frozen=True, slots=True)
class _Head:
    host: str
    fingerprint: str
    boot: str
    ready: bool
    closed: bool
    failure: Sentence | None


_HEAD = reader(_Head)


def find_hosts(directory: Path) -> list[HostId]:
    """Return the hosts that have files in that directory, alive or dead."""
    names = sorted(path.stem for path in directory.glob("*.lock"))
    return [HostId(name) for name in names if _ID.fullmatch(name)]


def launch(
    files: HostFiles, *, python: str, environment: Mapping[str, str], fingerprint: str, worker_name: str
) -> int:
    """Start a host that outlives this process, and return its process id; the caller must reap it.

    The daemon's own settings, its token among them, are kept from the host's environment.

    Raises:
        OSError: there is no such interpreter, or no room for another process.
    """
    # -P: modules are not looked for where the daemon happens to have been started. Not PYTHONSAFEPATH, which
    # all that tasks start would inherit.
    argv = [python, "-P", "-m", "edge_ws.host.server", "--directory", str(files.directory)]
    argv += ["--host", files.host, "--fingerprint", fingerprint, "--worker", worker_name]
    log = str(files.path(".log"))
    inherited = {name: value for name, value in environment.items() if not name.startswith(_OF_THE_DAEMON)}
    # Not subprocess.Popen: that warns when a process outlives it, as this one shall.
    return os.posix_spawn(
        python,
        argv,
        {**inherited, _MARK: files.host},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=_RESET,
    )


def has_exited(child: int) -> bool:
    """Tell whether a child of this process has ended, and reap it then."""
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:
        return True


def lock_holder(files: HostFiles) -> int | None:
    """Return the process that lives as this host, None if there is none; 0 if it is in another container."""
    try:
        return _lock_holder(files.path(".lock"))
    except OSError as error:
        if error.errno in _NO_LOCK:
            return None
        raise


def read_journal(files: HostFiles, faults: Faults) -> Journal:
    """Return the host's journal; a missing one reads as empty, an odd one as torn.

    Raises:
        OSError: it cannot be read now.
    """
    path = files.path(".json")
    try:
        told = json.loads(read_small(path))
        head = _HEAD(told, "journal")
        jobs = tuple(job for job in told["jobs"] if isinstance(job, dict))
        return Journal(**asdict(head), jobs=jobs)
    except (OSError, EdgeWsError, ValueError, LookupError, TypeError, RecursionError) as error:
        if not os.path.lexists(path):
            return Journal()
        if isinstance(error, OSError) and error.errno in _PASSES:
            raise
        advice = (
            "what it knew about its jobs is lost; when that host has died, what is left of them is killed"
        )
        faults.odd("the journal of a job host", path, str(error), advice)
        return Journal(host=files.host, boot=boot_id(), is_torn=True)


def last_words(files: HostFiles) -> str:
    """Return the last line that the host has printed."""
    try:
        with os.fdopen(open_own(files.path(".log")), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LONGEST_WORDS))
            lines = file.read(_LONGEST_WORDS).decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:_LONGEST_LINE] for line in reversed(lines) if line.strip()), "")


def kill_leftovers(journal: Journal) -> bool:
    """SIGKILL what a dead host's unfinished jobs have left; tell whether anything was still there.

    A process is known by its id and its start time, which must be equal: the kernel counts both, so no clock
    that is set meanwhile matters. What has lost its parents is known by the host's mark in its environment.
    """
    if journal.boot != boot_id():
        return False
    unfinished = [job for job in journal.jobs if job.get("phase") in _UNFINISHED]
    left = [_kill_job(job) for job in unfinished if _names_processes(job)]
    return any((*left, journal.has_unfinished and _kill_marked(journal.host)))


def _names_processes(job: Mapping[str, Any]) -> bool:
    """Tell whether what an entry of a journal says of processes is sound: no process of ours is 0 or 1."""
    return all(name in job and isinstance(job[name], kind) for name, kind in _OF_A_PROCESS.items()) and all(
        job[name] is None or job[name] > 1 for name in ("pid", "task_pid")
    )


def _kill_marked(host: str) -> bool:
    mark = f"{_MARK}={host}".encode()
    found = False
    if not host:
        return found
    for pid in psutil.pids():
        try:
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
                found = True
        except OSError:  # It has gone, or is another user's.
            continue
    return found


def _kill_job(job: Mapping[str, Any]) -> bool:
    task, task_start = job["task_pid"], job["task_start_time"]
    # The supervisor goes first: it must not report the task that it loses.
    known = [(job["pid"], job["start_time"]), (task, task_start)]
    found = [pid for pid, since in known if since is not None and start_time(pid) == since]
    below: list[psutil.Process] = []
    for pid in found:
        with contextlib.suppress(psutil.Error):
            below += psutil.Process(pid).children(recursive=True)
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    # A number that is still a group's id is given to no new process: without its leader it is the old group.
    if task is not None and start_time(task) in {None, task_start} and group_lives(task):
        found.append(task)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(task, signal.SIGKILL)
    for process in below:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return bool(found)


def remove(files: HostFiles, *, keep_log: bool) -> None:
    """Remove a dead host's files; of kept logs only the newest stay.

    What a read-only disk keeps is found dead again by the next daemon.
    """
    for suffix in (".sock", ".json", ".new", *(() if keep_log else (".log", ".log.1")), ".lock"):
        with contextlib.suppress(OSError):
            files.path(suffix).unlink(missing_ok=True)
    old = [
        path
        for path in files.directory.glob("*.log*")
        if not path.with_name(f"{path.name[:36]}.lock").exists()
    ]
    old.sort(key=_changed_at, reverse=True)
    for path in old[_LOGS_KEPT:]:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _changed_at(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0

"""Which process is which, over its number's reuse, and signals that never reach a stranger.

Knows nothing of jobs. A start time is the kernel's own (clock ticks since boot, as seconds), not psutil's:
that one moves with the wall clock, and a machine without a battery for its clock sets that after each boot.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil


def boot_id() -> str:
    """Return the id of this boot of the machine: start times compare within one boot only."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def start_time(pid: int) -> float | None:
    """Return when the process started (seconds since boot), None if there is none or it is a zombie."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19]) / os.sysconf("SC_CLK_TCK")


def group_lives(pgid: int) -> bool:
    """Tell whether a process of that group lives: zombies do not count, whoever its leader was."""
    return any(fields is not None and int(fields[2]) == pgid for fields in map(_stat, psutil.pids()))


def _stat(pid: int) -> list[bytes] | None:
    """Return the process's `/proc/PID/stat` from its state on, None if there is none or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command's name, in parentheses, may hold anything; fields are counted from its end.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in {b"Z", b"X"} else fields


def group_is_there(pgid: int, leader_start: float | None) -> bool:
    """Tell whether anything is left of the process group that a process started then leads or led."""
    return _reach(pgid, leader_start, 0)


def signal_group(pgid: int, leader_start: float | None, number: signal.Signals) -> bool:
    """Signal the process group that a process started then leads or led; tell whether anything got it.

    A number that is still some group's id is not given to a new process, so a group without its leader is the
    old one; a leader with another start time is a stranger. Another user's group is there, and gets nothing.
    """
    return _reach(pgid, leader_start, number)


def _reach(pgid: int, leader_start: float | None, number: int) -> bool:
    if leader_start is None or start_time(pgid) not in {None, leader_start}:
        return False
    try:
        os.killpg(pgid, number)
    except PermissionError:
        return number == 0
    except ProcessLookupError:
        return False
    return True


def kill_tree(leader: int, leader_start: float | None) -> None:
    """SIGKILL a process group and every process below its leader, those in sessions of their own too."""
    below: list[psutil.Process] = []
    if leader_start is not None and start_time(leader) == leader_start:
        # OSError: no descriptor is left for the look.
        with contextlib.suppress(psutil.Error, OSError):
            below = psutil.Process(leader).children(recursive=True)
    signal_group(leader, leader_start, signal.SIGKILL)
    for process in below:
        with contextlib.suppress(psutil.Error):
            process.kill()


def thread_count() -> int:
    """Return how many threads this process has, those of C libraries included."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())

"""What is left below this process: adopt it, reap it, end it.

A subreaper inherits every process below it whose parent has died, those in sessions of their own and those
that have forked twice too; so none is lost from sight, and a process that has no children has none below it.
Knows nothing of jobs. For single-threaded processes: another thread's `waitpid` would lose its children here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.01
_KILLED_S = 1.0
"""How long what has got SIGKILL may take to be gone; longer only in the kernel's own calls."""
_NAMED = 5


def become_subreaper() -> None:
    """Inherit from now on what the processes below leave behind; a child does not inherit this."""
    with contextlib.suppress(OSError, AttributeError):  # Another kernel: it inherits nothing, as before.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap(*, but: int | None = None) -> bool:
    """Reap what has ended, `but` one child that somebody else waits for; tell whether a child is left."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        if ended is None or ended.si_pid == but:
            return True
        os.waitpid(ended.si_pid, os.WNOHANG)


def end_children(*, calm_s: float, term_s: float) -> list[str]:
    """End all that is below this process; return what it was, for people.

    Args:
        calm_s: for what ends by itself now that the task has gone.
        term_s: between SIGTERM and SIGKILL; 0: SIGKILL at once.
    """
    if _childless_within(calm_s):
        return []
    found = [_named(one) for one in _below()]
    if term_s:
        _signal(_below(), signal.SIGTERM)
        if _childless_within(term_s):
            return found
    end = time.monotonic() + _KILLED_S
    while not _childless_within(_LOOK_S) and time.monotonic() < end:
        _signal(_below(), signal.SIGKILL)
    return found


def kill_adopted(own: Collection[int]) -> bool:
    """SIGKILL what this process has inherited, all children but its `own` and what is below them.

    Returns:
        Whether there was any.
    """
    adopted = [one for one in psutil.Process().children() if one.pid not in own]
    for one in adopted:
        with contextlib.suppress(psutil.Error):
            _signal([one, *one.children(recursive=True)], signal.SIGKILL)
    return bool(adopted)


def listed(found: list[str]) -> str:
    """Return some names as one phrase, however many there are."""
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more


def _childless_within(seconds: float) -> bool:
    end = time.monotonic() + seconds
    while reap():
        if time.monotonic() >= end:
            return False
        time.sleep(_LOOK_S)
    return True


def _below() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _named(process: psutil.Process) -> str:
    try:
        return f"{process.name()} (pid {process.pid})"
    except psutil.Error:
        return f"pid {process.pid}"


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)

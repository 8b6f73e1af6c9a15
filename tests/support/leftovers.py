"""Finds the processes that a test has left behind, its own children and those that outlived their parents."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

import psutil

_MARKER = "PYTEST_LEFTOVERS_OF"
"""In the environment of everything a test starts, unless it starts it with an environment of its own."""
_STARTS = frozenset(
    {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec", "pty.spawn"}
)
"""Audit events of what starts a process (https://docs.python.org/3/library/audit_events.html)."""
_SYSTEMS_OWN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


class _Starts:
    """Counts the processes that this one has started."""

    count = 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in _STARTS:
            self.count += 1


_starts = _Starts()
sys.addaudithook(_starts)


@contextmanager
def no_leftovers(test: str, spared: Collection[int], *, grace_s: float = 5.0) -> Iterator[None]:
    """Kill what the block leaves behind but those spared, and fail if it has not ended within `grace_s`.

    Raises:
        AssertionError: names the processes.
    """
    before, started = set(psutil.Process().children()), _starts.count
    mark = uuid.uuid4().hex
    marked_before = os.environ.get(_MARKER, "")
    os.environ[_MARKER] = mark
    try:
        yield
    finally:
        os.environ[_MARKER] = marked_before
    # Every process's environment is read: not after each of thousands of tests that start none.
    found = _found(before, mark) if _starts.count != started else []
    if left := [process for process in found if process.pid not in spared]:
        _, left = psutil.wait_procs(left, timeout=grace_s)
        said = [_said(process) for process in left if _is_running(process)]
        for process in left:
            _kill(process)
        psutil.wait_procs(left, timeout=10)
        assert not said, f"{test} left processes behind: {'; '.join(said)}"


def _found(before: set[psutil.Process], mark: str) -> list[psutil.Process]:
    found = set(psutil.Process().children()) - before
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(_MARKER) == mark:
                found.add(process)
        except psutil.Error:
            continue
    return [process for process in found if _is_running(process) and not _is_systems_own(process)]


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_systems_own(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return any(name in command for name in _SYSTEMS_OWN)


def _said(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return str(process.pid)


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.kill()

"""Leaves no process of the demo behind, whatever ends the demo: SIGKILL for all that it has started.

Run as a module it is the guard: a process of its own that waits for the demo's end, in order or by kill -9.
It must not import anything heavy. A process belongs to the demo by its session: each part leads one, and so
does each of the worker's job hosts, which outlive their worker by design.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from edge_ws.processes import start_time
from edge_ws.worker import host_process
from edge_ws.worker.faults import Faults
from edge_ws.worker.host_process import HostFiles

PATIENCE_S = 5.0
"""For what has been killed to be gone."""
_AGAIN_S = 0.02


class Guard:
    """Knows what was started, here and in a process that outlives this one by a moment."""

    def __init__(self, hosts: Path, environment: Mapping[str, str]) -> None:
        """Start the guard.

        Args:
            hosts: where the worker's job hosts keep their files.
            environment: the guard's own.
        """
        self._hosts = hosts
        self._leaders: dict[int, float] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edge_ws.demo.guard", str(hosts)],
            env=dict(environment),
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, leader: int) -> None:
        """Take the session that this child leads into account."""
        since = start_time(leader)
        if since is None or self._process.stdin is None:
            return
        self._leaders[leader] = since
        # A guard that somebody has killed is no reason for the demo to fail.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{leader} {since!r}\n".encode())
            self._process.stdin.flush()

    def sweep(self) -> None:
        """Kill what there is of the demo."""
        sweep(self._leaders, self._hosts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self.sweep()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()


def sweep(leaders: Mapping[int, float], hosts: Path) -> None:
    """Kill the sessions of those leaders (process id -> start time) and those of all job hosts there."""
    end = time.monotonic() + PATIENCE_S
    # The daemon before its hosts: it would start another one.
    while _kill(_members(leaders)) and time.monotonic() < end:
        time.sleep(_AGAIN_S)
    files = [HostFiles(hosts, host) for host in host_process.find_hosts(hosts)]
    for one in files:
        while _kill(_of_host(one)) and time.monotonic() < end:
            time.sleep(_AGAIN_S)
        host_process.kill_leftovers(host_process.read_journal(one, Faults()))


def _kill(pids: Iterator[int]) -> bool:
    found = set(pids) - {os.getpid()}
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)


def _members(leaders: Mapping[int, float]) -> Iterator[int]:
    """Yield the living processes of those sessions and those below their leaders."""
    # A number is not given to a new process while it names a session: without its leader it is the old one.
    ours = {pid for pid, since in leaders.items() if start_time(pid) in {None, since}}
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) in ours and start_time(pid) is not None:
                yield pid
    for pid in ours:
        yield from _below(pid)


def _of_host(files: HostFiles) -> Iterator[int]:
    pid = host_process.lock_holder(files)
    since = start_time(pid) if pid else None
    if pid and since is not None:
        yield from _members({pid: since})


def _below(pid: int) -> list[int]:
    with contextlib.suppress(psutil.Error):
        return [process.pid for process in psutil.Process(pid).children(recursive=True)]
    return []


def main(hosts: Path) -> None:
    """Wait for the end of the demo, which closes our standard input, and clear up after it."""
    leaders = {int(pid): float(since) for pid, since in (line.split() for line in sys.stdin)}
    sweep(leaders, hosts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

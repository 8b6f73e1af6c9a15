"""A job's own process: wait for `go`, run the workload, tell its end. Forked, or in a fresh interpreter.

It talks with the host over one socket, JSON lines: it hears `{"go": token}` and perhaps `stop`, and says
`forked`, `started`, `stopping` or `left`, of the task's outcome `telling`, then `told` or `owed`, and its
last word, `not_started` or `ended`. When the host is gone before `go`, it leaves without a trace. Run as a
module it is the fresh interpreter; its arguments are three descriptors: the socket, the workload's file, and
the right to send SIGTERM.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from edge_ws import streams
from edge_ws.host import leftovers, runner
from edge_ws.host.connection import value_of
from edge_ws.host.outcome import Call
from edge_ws.host.sentences import one_line
from edge_ws.host.supervision import Right, Supervision
from edge_ws.processes import start_time, thread_count

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a job's process must know before `go`."""

    claim: str
    payload: str
    server: str
    """The Execution API's base URL."""
    proxy: str | None
    """The forward proxy on the way there."""
    worker: str
    settings: dict[str, str]
    """Of the centre, as in `site_settings`."""


def last_word(words: dict[str, Any]) -> dict[str, Any]:
    """Return what a child's last word tells.

    Raises:
        LookupError, TypeError, ValueError: it is none.
    """
    if "ended" not in words:
        return {name: value_of(words, name, str) for name in ("not_started", "fault")}
    return {
        "ended": value_of(words, "ended", int),
        "detail": value_of(words, "detail", str),
        "log_uploaded": value_of(words, "log_uploaded", bool),
    }


def start(workload: Workload, close_inherited: Callable[[], None]) -> tuple[int, socket.socket, Right]:
    """Start a waiting job; return its process id, the host's end of its socket, and the right to SIGTERM.

    `close_inherited` closes, in a forked child, all that only the host may hold open.

    Raises:
        OSError: the machine has no room for another process.
    """
    right = Right()
    ours, theirs = socket.socketpair()
    try:
        # A fork copies only the thread that forks: a lock that another one holds would stay locked for ever.
        pid = (
            _fork(workload, right, ours, theirs, close_inherited)
            if thread_count() == 1
            else _spawn(workload, right, theirs)
        )
    except OSError:
        ours.close()
        right.close()
        raise
    finally:
        theirs.close()
    return pid, ours, right


def _fork(
    workload: Workload,
    right: Right,
    ours: socket.socket,
    theirs: socket.socket,
    close_inherited: Callable[[], None],
) -> int:
    sys.stdout.flush()  # What is still in the buffers would be written twice.
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        with _never_returning():
            _reset_signals()
            ours.close()
            close_inherited()
            _live(workload, right, theirs)
    return pid


def _spawn(workload: Workload, right: Right, theirs: socket.socket) -> int:
    """Start the job in a fresh interpreter, which loads Airflow itself."""
    # A file in memory, not an argument: other users can read a process's arguments.
    memory = os.memfd_create("edge-ws-workload")
    try:
        os.write(memory, json.dumps(dataclasses.asdict(workload)).encode())
        os.lseek(memory, 0, os.SEEK_SET)
        descriptors = [theirs.fileno(), memory, right.number]
        for number in descriptors:
            os.set_inheritable(number, True)
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "edge_ws.host.child", *map(str, descriptors)],
            os.environ,
            setsigdef=[*_SIGNALS, signal.SIGINT, signal.SIGPIPE],
        )
    finally:
        os.close(memory)


def main(sock: int, memory: int, right: int) -> NoReturn:
    """Be the fresh interpreter."""
    streams.protect_standard_streams()
    with _never_returning():
        for number in (sock, right):
            os.set_inheritable(number, False)
        with os.fdopen(memory, "rb") as file:
            workload = Workload(**json.load(file))
        runner.preload()
        _live(workload, Right(right), socket.socket(fileno=sock))
    raise AssertionError


@contextlib.contextmanager
def _never_returning() -> Iterator[None]:
    """End the process at the end of the block, whatever happens: a child must not run the host's code."""
    code = 1
    try:
        yield
        code = 0
    except BaseException as error:  # noqa: BLE001
        sys.stderr.write(f"edge-ws job: {one_line(error)}\n")
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


class _Line:
    """The child's end of the socket to the host."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unread = b""

    def wait_for_go(self) -> dict[str, Any] | None:
        """Return the word that holds the token, None if the host is gone."""
        while b"\n" not in self._unread:
            part = self._sock.recv(65536)
            if not part:
                return None
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        word: dict[str, Any] = json.loads(line)
        return word

    # supervision.Line

    def copy(self) -> socket.socket:
        return self._sock.dup()

    def wait(self, seconds: float) -> bool:
        # What the task's process has forked has no line.
        socks = [self._sock] if self._sock.fileno() >= 0 else []
        return bool(select.select(socks, (), (), seconds)[0])

    def hear(self) -> list[dict[str, Any]] | None:
        try:
            part = self._sock.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            part = None
        except OSError:
            part = b""
        *lines, self._unread = (self._unread + (part or b"")).split(b"\n")
        return None if part == b"" else [json.loads(line) for line in lines]

    def say(self, **words: object) -> None:
        with contextlib.suppress(OSError):  # Without a host nobody hears it; the task goes on all the same.
            self._sock.sendall(json.dumps(words).encode() + b"\n")

    # runner.Report

    def forked(self, pid: int) -> None:
        self.say(forked=pid, start_time=start_time(pid))

    def started(self) -> None:
        self.say(started=True)

    def telling(self, state: str, call: Call) -> None:
        self.say(telling=state, call=call)

    def told(self) -> None:
        self.say(told=True)

    def owed(self, why: str) -> None:
        self.say(owed=why)


def _live(workload: Workload, right: Right, sock: socket.socket) -> None:
    runner.set_title(f"edge-ws job {workload.claim}: waiting")
    leftovers.become_subreaper()
    # The task's process and what it forks must not hold the line to the host: closing twice is harmless.
    os.register_at_fork(after_in_child=sock.close)
    os.register_at_fork(after_in_child=right.close)
    line = _Line(sock)
    go = line.wait_for_go()
    if go is None:
        return
    supervision = Supervision(line, right, go["grace_s"])
    outcome = runner.run(
        workload.payload,
        token=go["go"],
        server=workload.server,
        proxy=workload.proxy,
        worker=workload.worker,
        settings=workload.settings,
        report=line,
        supervision=supervision,
    )
    supervision.finish()
    if outcome.not_started is not None:
        line.say(not_started=outcome.not_started, fault=outcome.fault)
    else:
        line.say(ended=outcome.exit_code, detail=outcome.detail, log_uploaded=outcome.log_uploaded)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

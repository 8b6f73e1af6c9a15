"""A job host's process and its socket, spoken to line by line: for tests of the host without the daemon's client."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.jobs import PYTHON
from tests.support.waiting import wait_until

PATIENCE_S = 60.0


class Line:
    """One connection to a host; events that were not asked for yet are kept."""

    def __init__(self, directory: Path, host: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        folder = os.open(directory, os.O_PATH)
        try:
            self._sock.connect(f"/proc/self/fd/{folder}/{host}.sock")
        except OSError:
            self._sock.close()
            raise
        finally:
            os.close(folder)
        self._file = self._sock.makefile("rb")
        self._kept: list[dict[str, Any]] = []

    def say(self, op: str, **words: Any) -> None:
        """Send one wish."""
        self._sock.sendall(json.dumps({"op": op, **words}).encode() + b"\n")

    def hear(self, ev: str, claim: str | None = None, *, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """Return the next event of that kind (about that claim)."""
        end = time.monotonic() + within_s
        while True:
            for event in self._kept:
                if event["ev"] == ev and claim in {None, event.get("claim")}:
                    self._kept.remove(event)
                    return event
            self._sock.settimeout(max(0.001, end - time.monotonic()))
            try:
                line = self._file.readline()
            except TimeoutError:
                raise AssertionError(f"no {ev} within {within_s} s, but {self._kept}") from None
            assert line, f"the host hung up; heard {self._kept}"
            self._kept.append(json.loads(line))

    def is_closed(self) -> bool:
        """Wait until the host hangs up; tell whether it does."""
        self._sock.settimeout(PATIENCE_S)
        try:
            while self._file.readline():
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def hello(self) -> dict[str, Any]:
        """Say hello and return the answer."""
        self.say("hello")
        return self.hear("hello")

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._sock.close()


class RawHost:
    """A host's process, started as the daemon starts it."""

    def __init__(self, directory: Path, environment: dict[str, str], *more: str) -> None:
        self.directory = directory
        self.id = str(uuid.uuid4())
        arguments = [
            "--directory",
            str(directory),
            "--host",
            self.id,
            "--fingerprint",
            "f1",
            "--worker",
            "factory-7",
        ]
        with (directory / f"{self.id}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [PYTHON, "-P", "-m", "edge_ws.host.server", *arguments, *more],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._lines: list[Line] = []

    @property
    def journal(self) -> dict[str, Any]:
        """The journal as it is on disk."""
        value: dict[str, Any] = json.loads((self.directory / f"{self.id}.json").read_text())
        return value

    @property
    def log(self) -> str:
        """What the host and its supervisors have printed."""
        return (self.directory / f"{self.id}.log").read_text()

    def connect(self) -> Line:
        """Return a new connection."""

        def try_it() -> Line | None:
            assert self.process.poll() is None, self.log
            try:
                return Line(self.directory, self.id)
            except OSError:
                return None

        line = wait_until(try_it, PATIENCE_S)
        assert line is not None
        self._lines.append(line)
        return line

    def is_locked(self) -> bool:
        """Tell whether the host holds its lock."""
        with (self.directory / f"{self.id}.lock").open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def wait(self) -> int:
        """Wait for the process's end and return its exit code."""
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End the process with all that is below it."""
        for line in self._lines:
            line.close()
        if self.process.poll() is None:
            end_tree(self.process.pid)
        self.process.wait(PATIENCE_S)


def end_tree(pid: int) -> None:
    """SIGKILL a process and all below it."""
    import psutil

    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    for number in (pid, *(process.pid for process in below)):
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue


@contextmanager
def raw_host(directory: Path, environment: dict[str, str], *more: str) -> Iterator[RawHost]:
    """Run a host for the length of the block."""
    directory.mkdir(parents=True, exist_ok=True)
    host = RawHost(directory, environment, *more)
    try:
        yield host
    finally:
        host.close()

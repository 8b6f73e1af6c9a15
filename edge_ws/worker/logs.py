"""Brings the logs of running jobs to the server: reads files as they grow, a few chunks ahead of the acks.

Offsets are the claim's own, from 0. Nothing is read that cannot be sent, so a slow link costs no memory;
after a reconnect each log goes on behind the last acknowledged byte.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import anyio

from edge_ws.protocol.codec import LOG_CHUNK
from edge_ws.protocol.frames import Log
from edge_ws.protocol.ids import ClaimId
from edge_ws.worker.files import open_plain

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
"""Between two looks at files that may have grown."""
IN_FLIGHT = 4
"""Chunks sent and not acknowledged, at the most, per log."""


@dataclass(slots=True)
class _Tail:
    claim: ClaimId
    path: Path | None
    start: int
    file: BinaryIO | None = None
    sent: int = 0
    acked: int = 0
    acked_before: int = -1
    extra: bytes = b""
    """A last line that is in no file (the file cannot be written to)."""
    final: bool = False
    broken: bool = False

    def size(self) -> int:
        """Return the claim's bytes that exist now."""
        return (self._file_size() + len(self.extra)) if self.open() or self.extra else 0

    def _file_size(self) -> int:
        return max(0, os.fstat(self.file.fileno()).st_size - self.start) if self.file is not None else 0

    def open(self) -> bool:
        """Open the file once it is there and keep it open: it may be renamed or removed meanwhile."""
        if self.file is None and self.path is not None and not self.broken:
            try:
                # No link: who may write to the log's folder is not to have this process read another file.
                self.file = os.fdopen(open_plain(self.path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
            except FileNotFoundError:
                return False
            except OSError as error:
                self.broken = True
                log.warning("the log %s cannot be read: %s", self.path, error)
        return self.file is not None

    def read(self, offset: int, chunk: int) -> bytes:
        """Return up to `chunk` of the claim's bytes from `offset` on."""
        in_file = self._file_size()
        if offset < in_file and self.file is not None:
            return os.pread(self.file.fileno(), min(chunk, in_file - offset), self.start + offset)
        return self.extra[offset - in_file :][:chunk]

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


class Logs:
    """The tails of all claims whose log is not with the server yet."""

    def __init__(
        self,
        send: Callable[[Log], bool],
        on_flushed: Callable[[ClaimId, int], None],
        chunk: Callable[[], int] = lambda: LOG_CHUNK,
    ) -> None:
        """Make it.

        Args:
            send: sends a frame; False if there is no ready connection.
            on_flushed: called once a finished claim's whole log is acknowledged, with its size in bytes.
            chunk: returns how many bytes pass in one frame now.
        """
        self._send = send
        self._on_flushed = on_flushed
        self._chunk = chunk
        self._tails: dict[ClaimId, _Tail] = {}
        self._wake = anyio.Event()

    def tail(self, claim: ClaimId, path: str, start: int) -> None:
        """Follow the file from byte `start` on."""
        self._tails[claim] = _Tail(claim, Path(path), start)
        # With no log to follow, nobody looks.
        self._wake.set()

    def flush(self, claim: ClaimId, line: bytes = b"") -> None:
        """Nothing more will be written: bring what there is (and `line`), then call `on_flushed`."""
        tail = self._tails.setdefault(claim, _Tail(claim, None, 0))
        tail.extra, tail.final = line, True
        self._wake.set()

    def drop(self, claim: ClaimId) -> None:
        """Forget the claim's log."""
        tail = self._tails.pop(claim, None)
        if tail is not None:
            tail.close()

    def acked(self, claim: ClaimId, log_end: int) -> int:
        """Note that the server has `log_end` bytes; go on from there, wherever that is. Return it."""
        tail = self._tails.get(claim)
        if tail is not None:
            # No progress, or less or more than was sent: a chunk was lost, or the server knew more.
            if not tail.acked < log_end <= tail.sent:
                tail.sent = log_end
            tail.acked = log_end
            self._wake.set()
        return log_end

    def unconfirmed(self) -> int:
        """Return the bytes that are written and that the server has not acknowledged."""
        left = 0
        for tail in self._tails.values():
            with suppress(OSError):
                left += max(0, tail.size() - tail.acked)
        return left

    def resend(self, *, only_stuck: bool) -> None:
        """Send again what is not acknowledged.

        Args:
            only_stuck: only where nothing was acknowledged since the last call; else everywhere, because the
                connection is a new one.
        """
        for tail in self._tails.values():
            if not only_stuck or tail.acked == tail.acked_before:
                tail.sent = tail.acked
            tail.acked_before = tail.acked
        self._wake.set()

    async def run(self) -> None:
        """Send what there is, for ever."""
        while True:
            self._wake = anyio.Event()
            for tail in list(self._tails.values()):
                self._pump(tail)
            with anyio.move_on_after(LOOK_EVERY_S if self._tails else None):
                await self._wake.wait()

    def _pump(self, tail: _Tail) -> None:
        try:
            size = tail.size()
            chunk = self._chunk() if tail.sent < size else LOG_CHUNK
            while tail.sent < size and tail.sent - tail.acked < IN_FLIGHT * chunk:
                data = tail.read(tail.sent, chunk)
                if not data or not self._send(Log(claim=tail.claim, offset=tail.sent, data=data)):
                    break
                tail.sent += len(data)
        except (OSError, ValueError, OverflowError) as error:
            # The last two: where to read is past what a file can have.
            log.warning("the log %s cannot be read further: %s", tail.path, error)
            tail.broken, size = True, tail.acked
        if tail.final and tail.acked >= size:
            self._tails.pop(tail.claim, None)
            tail.close()
            self._on_flushed(tail.claim, tail.acked)


def log_size(path: str | None) -> int:
    """Return the bytes of a log that is there already; earlier rounds of a task write into the same file."""
    with suppress(OSError):
        return Path(path).stat().st_size if path else 0
    return 0


def log_line(sentence: str) -> bytes:
    """Return a line as Airflow writes task logs."""
    line = {"timestamp": datetime.now(UTC).isoformat(), "level": "error", "event": sentence}
    return json.dumps({**line, "logger": "edge_ws"}).encode() + b"\n"

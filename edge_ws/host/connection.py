"""The daemon's connection: lines in, JSON lines out, without ever blocking.

Knows nothing of what the lines mean.
"""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from typing import Any, TypeVar

_LONGEST = 16 * 1024 * 1024
"""Bytes of one line in, or of all that a daemon has left unread; more than both sides together can mean."""
_T = TypeVar("_T")


def value_of(words: dict[str, Any], name: str, kind: type[_T]) -> _T:
    """Return a value of what another process has said.

    Raises:
        ValueError: it is not of its type.
        LookupError, TypeError: there is none.
    """
    value = words[name]
    if type(value) is not kind:
        raise ValueError(f"{name} must be of the type {kind.__name__}")
    return value


class Connection:
    """One accepted socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._unread = bytearray()
        self._is_skipping = False
        """The rest of a line that is too long is to come."""
        self._unsent = bytearray()

    def read(self) -> Iterator[bytes]:
        """Yield the lines that have arrived.

        Raises:
            EOFError: the daemon is gone.
            OSError: so is the connection.
            ValueError: a line is too long; it is passed over.
        """
        try:
            data = self.sock.recv(1024 * 1024)
        except BlockingIOError:
            return
        if not data:
            raise EOFError
        self._unread += data
        *lines, self._unread = self._unread.split(b"\n")
        if self._is_skipping and lines:
            del lines[0]
            self._is_skipping = False
        for line in lines:
            yield bytes(line)
        if len(self._unread) > _LONGEST:
            self._unread, self._is_skipping = bytearray(), True
            raise ValueError(f"a line of more than {_LONGEST} bytes")

    def say(self, event: dict[str, object]) -> None:
        """Take a line to be sent at the next `flush`."""
        self._unsent += json.dumps(event).encode() + b"\n"

    def flush(self) -> int:
        """Send what the socket takes; return how many bytes wait for it.

        Raises:
            OSError: the daemon is gone, or it has not read for long.
        """
        while self._unsent:
            try:
                sent = self.sock.send(self._unsent)
            except BlockingIOError:
                break
            del self._unsent[:sent]
        if len(self._unsent) > _LONGEST:
            raise OSError(errno.ENOBUFS, "too much is unread")
        return len(self._unsent)

    def close(self) -> None:
        """Close the socket; what is unsent is in the next `hello`, to whoever says it."""
        self.sock.close()

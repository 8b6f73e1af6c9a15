"""Stands between a daemon and a job host's socket, and says to either what the other one never would."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Meddler:
    """Takes the place of the socket at that path; one daemon at a time."""

    def __init__(self, path: Path) -> None:
        self._folder = os.open(path.parent, os.O_PATH)
        here = f"/proc/self/fd/{self._folder}"
        path.rename(path.with_suffix(".real"))
        self._real = f"{here}/{path.stem}.real"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{here}/{path.name}")
        self._listener.listen()
        self._daemon: socket.socket | None = None
        self._lock = threading.Lock()
        self.said = bytearray()
        """What the daemon has said."""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                daemon, _ = self._listener.accept()
                host = socket.socket(socket.AF_UNIX)
                host.connect(self._real)
                with self._lock:
                    self._daemon = daemon
                threading.Thread(target=self._to_daemon, args=(host, daemon), daemon=True).start()
                threading.Thread(target=self._to_host, args=(daemon, host), daemon=True).start()

    def _to_daemon(self, host: socket.socket, daemon: socket.socket) -> None:
        with suppress(OSError), host, daemon:
            lines = host.makefile("rb")
            for line in lines:
                # A line at a time: what is put in between tears none.
                with self._lock:
                    daemon.sendall(line)
            daemon.shutdown(socket.SHUT_RDWR)

    def _to_host(self, daemon: socket.socket, host: socket.socket) -> None:
        with suppress(OSError):
            while data := daemon.recv(65536):
                self.said += data
                host.sendall(data)
            host.shutdown(socket.SHUT_RDWR)

    def say(self, data: bytes) -> None:
        """Say something to the daemon."""
        with self._lock:
            assert self._daemon is not None
            self._daemon.sendall(data)

    def close(self) -> None:
        """Accept nothing more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.close(self._folder)


@contextmanager
def meddling(path: Path) -> Iterator[Meddler]:
    """Meddle for the length of the block."""
    meddler = Meddler(path)
    try:
        yield meddler
    finally:
        meddler.close()

"""Somebody else at the gateway's address: answers every request with the same bytes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def answering_with(data: bytes, port: int = 0) -> Iterator[list[bytes]]:
    """Serve one connection after another for the length of the block; yield the requests as they come."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", port)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.settimeout(10)
                        asked.append(connection.recv(65536))
                        connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()

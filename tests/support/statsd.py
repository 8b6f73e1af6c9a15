"""A StatsD server: takes what is sent by UDP and keeps it."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Listener:
    """What has come, a metric each, as `name,tag=value:number|kind`."""

    def __init__(self, taken: socket.socket) -> None:
        self._socket = taken
        self.port = int(taken.getsockname()[1])
        self.lines: list[str] = []

    def settings(self, prefix: str = "AIRFLOW__METRICS__") -> dict[str, str]:
        """Return the environment of an Airflow that sends here, with tags in the names."""
        options = {
            "STATSD_ON": "True",
            "STATSD_HOST": "127.0.0.1",
            "STATSD_PORT": str(self.port),
            "STATSD_INFLUXDB_ENABLED": "True",
        }
        return {prefix + name: value for name, value in options.items()}

    def run(self) -> None:
        while data := self._socket.recv(65_536):
            if data == b"end":
                return
            self.lines += data.decode().split("\n")

    def names(self, begin: str = "airflow.edge_") -> set[tuple[str, str]]:
        """Return the names, tags included, with their kinds (g, c, ms)."""
        return {
            (line.rpartition(":")[0], line.rpartition("|")[2])
            for line in list(self.lines)
            if line.startswith(begin)
        }

    def counts(self) -> Counter[str]:
        """Return how often each name has come."""
        return Counter(line.rpartition(":")[0] for line in list(self.lines))

    def last(self, name: str) -> str | None:
        """Return the last value of that name, tags included."""
        values = [line.rpartition(":")[2] for line in list(self.lines) if line.rpartition(":")[0] == name]
        return values[-1].partition("|")[0] if values else None


@contextmanager
def statsd() -> Iterator[Listener]:
    """Listen on a free port of loopback for the length of the block."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        # What a busy machine does not read at once is not to be lost.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        taken.bind(("127.0.0.1", 0))
        listener = Listener(taken)
        thread = threading.Thread(target=listener.run)
        thread.start()
        try:
            yield listener
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.sendto(b"end", ("127.0.0.1", listener.port))
            thread.join()

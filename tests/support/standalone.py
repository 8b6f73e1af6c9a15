"""Real `edge-ws server` processes on a real Airflow's database."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.support.programs import clean_environment
from tests.support.waiting import free_port, wait_until

STARTS_WITHIN_S = 60.0


@dataclass
class Server:
    """One `edge-ws server`; it keeps its port when it is started again."""

    port: int
    log: Path
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def health(self, path: str = "/edge-ws/health") -> tuple[int, dict[str, Any]] | None:
        """Return status and body of its health, None if nobody listens."""
        with suppress(httpx2.TransportError):
            answer = httpx2.get(self.url + path, timeout=5)
            return answer.status_code, answer.json()
        return None

    def is_ready(self) -> bool:
        assert self.code is None, self.log.read_text()
        found = self.health()
        return found is not None and found[0] == 200


@contextmanager
def server(folder: Path, database: str, *flags: str, secret: str = "s" * 64, **more: str) -> Iterator[Server]:
    """Start one for the length of the block, on a free port of loopback; it need not be ready."""
    port = free_port()
    home = folder / f"server-{port}"
    home.mkdir()
    environment = clean_environment(
        home,
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=database,
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__API_AUTH__JWT_SECRET=secret,
        AIRFLOW__LOGGING__BASE_LOG_FOLDER=str(folder / "central"),
        **more,
    )
    command = [sys.executable, "-m", "edge_ws.cli", "server", "--host", "127.0.0.1", "-p", str(port), *flags]
    one = Server(port, folder / f"server-{port}.log", command, environment)
    one.start()
    try:
        yield one
    finally:
        assert one.process is not None
        # What is left of a failed test need not leave in good order.
        with suppress(subprocess.TimeoutExpired):
            one.process.terminate()
            one.process.wait(1)
        one.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            one.process.wait(10)
        one.process.kill()
        one.process.wait()


def ready(*servers: Server) -> None:
    """Wait until all hand out jobs."""
    for one in servers:
        wait_until(one.is_ready, STARTS_WITHIN_S, every_s=0.1)

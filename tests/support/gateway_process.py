"""A gateway in a process of its own, for tests that kill it: `python -m tests.support.gateway_process`.

Its ports are small: task states come from an Execution API of ours by HTTP, a token is its subject and the
instant of its end, finished logs go into a folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import urllib.request
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import sqlalchemy as sa
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from edge_ws.errors import UnreachableError
from edge_ws.protocol.frames import Timers
from edge_ws.server.app import Gateway
from edge_ws.server.config import GatewaySettings
from edge_ws.server.uvicorn_server import DrainingServer
from edge_ws.store.store import Store

log = logging.getLogger(__name__)

DRAIN_S = 2.0
"""Workers need about one to be let in elsewhere."""


class RemoteTasks:
    """Task states and tokens of the Execution API at that URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    def states(self, subjects: Collection[str]) -> dict[str, str | None]:
        body = json.dumps(sorted(subjects)).encode()
        request = urllib.request.Request(f"{self._url}states", body, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return dict(json.load(answer))
        except OSError as error:
            raise UnreachableError(f"the tasks' states cannot be had: {error}") from error

    def mint(self, subject: str, *, is_callback: bool, valid_s: float) -> str:
        return f"{subject}/{time.time() + valid_s}"

    def mint_for_outcome(self, subject: str, *, valid_s: float) -> str:
        return f"{subject}/{time.time() + valid_s}"


class LogFolder:
    """Finished logs as files below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def size(self, log_path: str) -> int:
        path = self._folder / log_path
        return path.stat().st_size if path.exists() else 0

    def write(self, log_path: str, base: int, chunks: Iterable[bytes]) -> None:
        path = self._folder / log_path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with path.open("r+b", buffering=0) as file:
            file.truncate(min(base, self.size(log_path)))
            file.seek(0, os.SEEK_END)
            for chunk in chunks:
                file.write(chunk)

    def copied(self, log_path: str, claim: str) -> int:
        """All rows here are our executor's, of which no copies are made."""
        raise AssertionError

    def copy(self, log_path: str, claim: str, begin: int, data: bytes) -> None:
        raise AssertionError

    def drop_copy(self, log_path: str, claim: str) -> None:
        """There is none."""

    def upload(self, log_path: str, command: str) -> None:
        """There is no remote store."""


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--execution-api", required=True)
    parser.add_argument("--one-address", action="store_true", help="workers find that API at their own URL")
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--heartbeat-s", type=float, default=15.0)
    parser.add_argument("--offer-lease-s", type=float, default=10.0)
    parser.add_argument("--token-life-s", type=float, default=60.0)
    parser.add_argument("--token-leeway-s", type=float, default=10.0)
    parser.add_argument("--backup-scan-s", type=float, default=15.0)
    parser.add_argument("--log-lease-s", type=float, default=60.0)
    told = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    settings = GatewaySettings(
        hostname="test",
        timers=Timers(heartbeat_s=told.heartbeat_s, offer_lease_s=told.offer_lease_s),
        execution_api_url=None if told.one_address else told.execution_api,
        token_life_s=told.token_life_s,
        token_leeway_s=told.token_leeway_s,
        backup_scan_s=told.backup_scan_s,
        move_lease_s=told.log_lease_s,
        upload_lease_s=told.log_lease_s,
    )
    # As Airflow makes it: its pool, and a ping before each use.
    engine = sa.create_engine(told.database, pool_pre_ping=True, connect_args={"application_name": "edge-ws"})
    tasks = RemoteTasks(told.execution_api)
    gateway = Gateway(Store(engine), settings, tasks, tasks, LogFolder(told.logs))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            async with gateway.running():
                yield
        except UnreachableError as error:
            log.error("the gateway cannot start: %s", error)  # noqa: TRY400 - expected
            os._exit(1)
        except Exception:
            # The web server would go on without its gateway; whoever runs this starts it again.
            log.exception("the gateway failed")
            os._exit(1)

    app = Starlette(lifespan=lifespan, routes=[Mount("/edge-ws", gateway.app)])
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=told.port,
        ws="websockets-sansio",
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    # As the gateway of its own: uvicorn alone would cut off the polls that are held here.
    DrainingServer(config, partial(gateway.drain, DRAIN_S)).run()


if __name__ == "__main__":
    main()

"""`/health` means: can hand out jobs."""

from __future__ import annotations

import httpx2
import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import Timers
from edge_ws.server.config import GatewaySettings
from edge_ws.store.store import Store
from tests.support.gateway import RunningGateway, serving
from tests.support.waiting import wait_until


def status(gateway: RunningGateway) -> int:
    return httpx2.get(f"{gateway.base_url}/edge-ws/health").status_code


def rename(engine: sa.Engine, old: str, new: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")


def test_a_database_that_is_away_for_two_heartbeats(
    sqlite_engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    settings = GatewaySettings(hostname="test", timers=Timers(heartbeat_s=0.3))
    with serving(Store(sqlite_engine), settings) as gateway:
        assert status(gateway) == 200
        rename(sqlite_engine, "edge_ws_gateway", "hidden")
        wait_until(lambda: status(gateway) == 503)
        answer = httpx2.get(f"{gateway.base_url}/edge-ws/health")
        assert answer.headers["edge-ws-error"] == "unavailable"
        assert "has not reached its database for" in answer.json()["sentence"]
        rename(sqlite_engine, "hidden", "edge_ws_gateway")
        wait_until(lambda: status(gateway) == 200)
    assert "Cannot record the heartbeat, retrying" in caplog.text

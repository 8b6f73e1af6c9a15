from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse

from edge_ws.errors import EdgeWsError, SchemaError, UnreachableError, UsageError
from edge_ws.provider.mount import Door, make_gateway, make_shell, warm_execution_api
from edge_ws.server.app import Gateway
from edge_ws.server.metrics_listener import MetricsListener
from tests.support.centre import Centre
from tests.support.waiting import until, wait_until

SECRET = "postgresql://airflow:***@db.internal/airflow"


class FakeGateway:
    """A gateway that says `ok`, and notes its life."""

    def __init__(self, life: list[str], fault: Exception | None = None) -> None:
        self._life = life
        self._fault = fault
        self.app = Starlette(routes=[Route("/health", self._health), WebSocketRoute("/v1/ws", self._echo)])

    async def _health(self, request: Any) -> JSONResponse:
        return JSONResponse({"status": "ok", "root_path": request.scope["root_path"]})

    async def _echo(self, websocket: Any) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._life.append("starts")
        try:
            async with anyio.create_task_group() as tasks:
                if self._fault is not None:
                    tasks.start_soon(self._fail)
                yield
        finally:
            self._life.append("ends")

    def end_polls(self) -> None:
        self._life.append("ends polls")

    async def _fail(self) -> None:
        assert self._fault is not None
        raise self._fault


class Maker:
    """Makes gateways after as many faults as it is given."""

    def __init__(self, *faults: Exception, crash: Exception | None = None) -> None:
        self.life: list[str] = []
        self._faults = list(faults)
        self._crash = crash

    def __call__(self) -> FakeGateway:
        if self._faults:
            raise self._faults.pop(0)
        crash, self._crash = self._crash, None
        return FakeGateway(self.life, crash)


def airflow_with(
    make: Callable[[], Any],
    *,
    retry_s: float = 0.01,
    root_path: str = "",
    warm: Callable[[], None] = lambda: None,
    listener: MetricsListener | None = None,
) -> FastAPI:
    """An api-server that mounts the shell the way Airflow does, lifespan included."""
    shell = make_shell(Door(make, retry_s=retry_s, listener=listener), warm)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with shell.router.lifespan_context(shell):
            yield

    app = FastAPI(lifespan=lifespan, root_path=root_path)
    app.mount("/edge-ws", shell)
    return app


def test_requests_and_websockets_reach_the_gateway() -> None:
    make = Maker()
    with TestClient(airflow_with(make)) as client:
        assert make.life == ["starts"]
        assert client.get("/edge-ws/health").json() == {"status": "ok", "root_path": "/edge-ws"}
        with client.websocket_connect("/edge-ws/v1/ws") as websocket:
            websocket.send_text("hello")
            assert websocket.receive_text() == "hello"
        assert client.get("/edge-ws/openapi.json").status_code == 404
        assert client.get("/edge-ws/docs").status_code == 404
    assert make.life == ["starts", "ends"]


def test_below_a_path_of_the_base_url() -> None:
    with TestClient(airflow_with(Maker(), root_path="/af/team"), root_path="/af/team") as client:
        assert client.get("/af/team/edge-ws/health").json()["root_path"] == "/af/team/edge-ws"
        with client.websocket_connect("/af/team/edge-ws/v1/ws") as websocket:
            websocket.send_text("hello")
            assert websocket.receive_text() == "hello"


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (SchemaError(f"the database {SECRET} has no tables"), "its tables are missing or another release's;"),
        (SchemaError(f"{SECRET} has no tables", remedy="run it"), "missing or another release's (run it);"),
        (UnreachableError(f"the database {SECRET} failed"), "it cannot reach its database"),
        (UsageError("[edge_ws] offer_lease is wrong"), "its configuration is wrong"),
        (EdgeWsError("something else"), "it failed"),
        (RuntimeError("a bug"), "it failed"),
    ],
)
def test_until_it_can_serve_it_says_why_not(fault: Exception, why: str) -> None:
    with TestClient(airflow_with(Maker(fault), retry_s=600)) as client:
        answer = client.get("/edge-ws/health")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "600"
        assert answer.headers["edge-ws-error"] == "unavailable"
        assert answer.json()["error"] == "unavailable"
        assert why in answer.json()["sentence"]
        assert SECRET not in answer.text
        with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/edge-ws/v1/ws"):
            pass
        assert denied.value.status_code == 503
        assert denied.value.json() == answer.json()


def test_it_serves_as_soon_as_it_can() -> None:
    fault = SchemaError("no tables")
    with TestClient(airflow_with(Maker(fault, fault, UnreachableError("away")))) as client:
        wait_until(lambda: client.get("/edge-ws/health").status_code == 200)


def test_the_same_fault_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    fault = SchemaError("no tables")
    with TestClient(airflow_with(Maker(fault, fault, fault))) as client:
        wait_until(lambda: client.get("/edge-ws/health").status_code == 200)
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == ["edge-ws: the gateway does not serve workers: no tables"]


def test_a_gateway_that_breaks_is_replaced() -> None:
    make = Maker(crash=RuntimeError("a bug"))
    with TestClient(airflow_with(make)) as client:
        wait_until(lambda: make.life == ["starts", "ends", "starts"])
        wait_until(lambda: client.get("/edge-ws/health").status_code == 200)


def test_the_execution_api_is_warm_before_anybody_is_served() -> None:
    order: list[str] = []
    with TestClient(airflow_with(Maker(), warm=lambda: order.append("warm"))) as client:
        order.append("served")
        assert client.get("/edge-ws/health").status_code == 200
    assert order == ["warm", "served"]


def test_warming_elsewhere_does_nothing() -> None:
    warm_execution_api()


def test_the_real_gateway_on_airflows_database(centre: Centre) -> None:
    gateway = make_gateway()
    assert isinstance(gateway, Gateway)
    with TestClient(airflow_with(make_gateway)) as client:
        answer = client.get("/edge-ws/health")
        assert answer.status_code == 200
        assert answer.json()["versions"]["airflow"].startswith("3.")


def test_the_real_gateway_without_tables(centre: Centre) -> None:
    with centre.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE edge_ws_claim RENAME TO hidden")
    with TestClient(airflow_with(make_gateway)) as client:
        assert client.get("/edge-ws/health").status_code == 503
        with centre.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE hidden RENAME TO edge_ws_claim")
        wait_until(lambda: client.get("/edge-ws/health").status_code == 200)


def test_a_wrong_setting_is_said(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__EDGE_WS__OFFER_LEASE", "soon")
    with pytest.raises(UsageError, match=r"\[edge_ws\] offer_lease"):
        make_gateway()


def test_open_polls_return_when_the_server_is_told_to_end() -> None:
    maker, told = Maker(), []
    shell = make_shell(Door(maker), warm=lambda: None)

    async def serve() -> None:
        async with shell.router.lifespan_context(shell):
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: told and "ends polls" in maker.life)

    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        servers_own = signal.getsignal(signal.SIGTERM)
        anyio.run(serve)
        assert told == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is servers_own
    finally:
        signal.signal(signal.SIGTERM, before)
    assert maker.life == ["starts", "ends polls", "ends"]


def test_metrics_that_cannot_be_served_keep_nobody_from_the_gateway(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listener = MetricsListener.of(f"127.0.0.1:{taken.getsockname()[1]}", "[edge_ws] metrics_listen")
        with TestClient(airflow_with(Maker(), listener=listener)) as client:
            assert client.get("/edge-ws/health").status_code == 200
    assert listener.port is None
    told = [one.getMessage() for one in caplog.records if "metrics" in one.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("edge-ws: metrics cannot be served on 127.0.0.1, port ")
    assert "Address already in use" in told[0]

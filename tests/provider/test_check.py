"""What is looked at at the centre, one thing wrong at a time."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_ws.cli.main import run
from edge_ws.cli.verb import leaves
from edge_ws.cli.verbs import VERBS
from edge_ws.provider import check, compat, mount
from edge_ws.provider.check import Finding, Verdict, strangers
from edge_ws.store.records import HEARTBEAT_S, SEEN_BEATS
from edge_ws.store.store import Store
from tests.support.centre import Centre
from tests.support.gateway import running_gateway, serving
from tests.support.http import http_server
from tests.support.identity_provider import ISSUER, providing
from tests.support.waiting import free_port, wait_until

_IN_TABLES = ("clock", "wake-up", "gateways", "workers", "queues", "tokens")
EXECUTOR = "edge_ws.provider.executor.EdgeWsExecutor"
LOCAL = "airflow.executors.local_executor.LocalExecutor"


@pytest.fixture(autouse=True)
def _executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("httpx2"), "level", logging.WARNING)


def findings(centre: Centre) -> dict[str, Finding]:
    found = list(check.look(centre.engine, compat.conf))
    by_name = {one.check: one for one in found}
    assert len(by_name) == len(found)
    return by_name


def verdicts(found: dict[str, Finding]) -> dict[str, str]:
    return {name: one.verdict.value for name, one in found.items()}


def only(found: Iterator[Finding]) -> dict[str, Finding]:
    return {one.check: one for one in found}


def test_whether_jwts_can_be_verified(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    with providing() as provider:
        monkeypatch.setenv("AIRFLOW__EDGE_WS__TRUSTED_JWKS_URL", provider.url)
        found = findings(centre)
        assert (found["settings"].verdict, "jwt_issuer" in found["settings"].says) == (Verdict.WRONG, True)
        monkeypatch.setenv("AIRFLOW__EDGE_WS__JWT_ISSUER", ISSUER)
        found = findings(centre)
        assert (found["settings"].verdict, found["identities"].verdict) == (Verdict.OK, Verdict.OK)
        assert "1 key(s)" in found["identities"].says
        # What the gateway is made with, in the api-server and in `edge-ws server` alike.
        with running_gateway(mount.make_gateway()) as url:
            headers = {"edge-ws-token": provider.sign(aud=None), "edge-ws-worker": "w1"}
            ask = partial(httpx2.get, f"{url}/edge-ws/v1/whoami", headers=headers)
            wait_until(lambda: ask().status_code == 200)
            assert ask(headers={**headers, "edge-ws-worker": "w2"}).status_code == 401
        provider.garbage = b"<html>"
        assert findings(centre)["identities"].verdict is Verdict.WRONG


def test_an_api_server_that_only_a_proxy_reaches_needs_no_limits() -> None:
    assert strangers("127.0.0.1").verdict is Verdict.OK
    assert strangers("0.0.0.0").verdict is Verdict.WARNING
    assert strangers("airflow.example.com").verdict is Verdict.WARNING
    assert strangers(None).verdict is Verdict.OK


def test_a_centre_that_is_all_right(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__EDGE_WS__API_ENABLED", "True")
    with serving(Store(centre.engine)) as gateway, execution() as execution_url:
        monkeypatch.setenv("AIRFLOW__API__BASE_URL", f"{gateway.base_url}/")
        monkeypatch.setenv("AIRFLOW__EDGE_WS__EXECUTION_API_URL", execution_url)
        found = findings(centre)
    assert verdicts(found) == {
        "settings": "ok",
        # Airflow has read [core] executor once and for all; see the tests of `executor`.
        "executor": "wrong",
        "secret": "ok",
        # The api-server serves the gateway here, and a proxy in front of it is not seen from inside.
        "strangers": "warning",
        "tables": "ok",
        "clock": "ok",
        "wake-up": "ok",
        "gateways": "ok",
        "workers": "warning",
        "queues": "ok",
        "tokens": "ok",
        "base_url": "ok",
        "websocket": "ok",
        "execution API": "ok",
    }
    assert "data_version" in found["wake-up"].says
    assert found["gateways"].says.startswith("1 seen lately: test:")


def test_without_tables_what_needs_them_is_not_looked_at(centre: Centre) -> None:
    with centre.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE edge_ws_claim RENAME TO hidden")
    found = findings(centre)
    assert found["tables"].verdict is Verdict.WRONG
    assert "airflow db migrate" in found["tables"].says
    assert {found[name].verdict for name in _IN_TABLES} == {Verdict.NOT_CHECKED}


@pytest.mark.parametrize(("enabled", "do"), [("True", "start the api-server"), ("False", "edge-ws server")])
def test_no_gateway_at_all(centre: Centre, monkeypatch: pytest.MonkeyPatch, enabled: str, do: str) -> None:
    monkeypatch.setenv("AIRFLOW__EDGE_WS__API_ENABLED", enabled)
    found = findings(centre)["gateways"]
    assert found.verdict is Verdict.WRONG
    assert do in found.do


def test_a_gateway_that_was_killed_is_none(centre: Centre) -> None:
    store = Store(centre.engine)
    store.liveness.announce("killed", "test", 1)  # type: ignore[arg-type]
    with centre.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE edge_ws_gateway SET seen_at = seen_at - {SEEN_BEATS * HEARTBEAT_S + 1:.0f}"
        )
    assert findings(centre)["gateways"].verdict is Verdict.WRONG


def test_a_wrong_setting(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__EDGE_WS__OFFER_LEASE", "soon")
    found = findings(centre)
    assert found["settings"].verdict is Verdict.WRONG
    assert "[edge_ws] offer_lease" in found["settings"].says
    assert found["tables"].verdict is Verdict.OK


def test_no_secret(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "")
    found = findings(centre)["secret"]
    assert found.verdict is Verdict.WRONG
    assert "[api_auth] jwt_secret" in found.says


def test_no_base_url_nothing_to_ask(centre: Centre) -> None:
    found = findings(centre)
    asked = ("base_url", "websocket", "execution API")
    assert {found[name].verdict for name in asked} == {Verdict.NOT_CHECKED}


@pytest.mark.parametrize(
    ("configured", "verdict", "says"),
    [
        ([EXECUTOR], Verdict.OK, "default"),
        ([LOCAL, EXECUTOR], Verdict.OK, 'executor="EdgeWsExecutor"'),
        ([LOCAL], Verdict.WRONG, "LocalExecutor"),
    ],
)
def test_the_executor(configured: list[str], verdict: Verdict, says: str) -> None:
    found = check.executor(configured)
    assert found.verdict is verdict
    assert says in found.says


def test_the_executors_that_airflow_knows() -> None:
    assert compat.configured_executors() == [LOCAL]


@pytest.mark.parametrize(
    ("apart_s", "verdict"), [(0, Verdict.OK), (3, Verdict.OK), (600, Verdict.WRONG), (-600, Verdict.WRONG)]
)
def test_the_clock(apart_s: float, verdict: Verdict) -> None:
    found = check.clock(lambda: time.time() + apart_s)
    assert found.verdict is verdict
    assert verdict is Verdict.OK or "600 s apart" in found.says


# Through the network


@contextmanager
def execution(status: int = 200) -> Iterator[str]:
    def health(request: Any) -> Response:
        return JSONResponse({"status": "healthy"}, status_code=status)

    with http_server(Starlette(routes=[Route("/execution/health", health)])) as url:
        yield f"{url}/execution/"


def test_an_airflow_where_everybody_is_an_admin() -> None:
    """Its Execution API would try a user's token as a task's, and log a traceback."""
    sent: list[str] = []

    def health(request: Request) -> Response:
        # As Airflow's SimpleAllAdminMiddleware does.
        request.scope["headers"].append((b"authorization", b"Bearer of-a-user"))
        sent.append(Headers(scope=request.scope)["authorization"])
        return JSONResponse({"status": "healthy"})

    with http_server(Starlette(routes=[Route("/execution/health", health)])) as url:
        found = only(check.from_outside(url, f"{url}/execution/"))
    assert found["execution API"].verdict is Verdict.OK
    assert sent == ["none"]


def test_nobody_answers() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    found = only(check.from_outside(url, f"{url}/execution/"))
    assert verdicts(found) == {"base_url": "wrong", "websocket": "not checked", "execution API": "wrong"}
    assert f"{url}/edge-ws/health cannot be reached from here" in found["base_url"].says


def test_an_airflow_without_a_gateway() -> None:
    with execution() as execution_url:
        found = only(check.from_outside(execution_url.removesuffix("/execution/"), execution_url))
    assert verdicts(found) == {"base_url": "wrong", "websocket": "not checked", "execution API": "ok"}
    assert "api_enabled" in found["base_url"].do


def test_a_gateway_that_cannot_serve() -> None:
    def health(request: Any) -> Response:
        body = {"error": "unavailable", "sentence": "its tables are missing"}
        return JSONResponse(body, status_code=503, headers={"edge-ws-error": "unavailable"})

    with http_server(Starlette(routes=[Route("/edge-ws/health", health)])) as url:
        found = only(check.from_outside(url, f"{url}/execution/"))["base_url"]
    assert found.verdict is Verdict.WRONG
    assert "its tables are missing" in found.says


@pytest.mark.parametrize(("status", "marker"), [(426, "upgrade_required"), (403, None), (200, None)])
def test_something_that_lets_no_websocket_pass(status: int, marker: str | None) -> None:
    def health(request: Any) -> Response:
        return JSONResponse({"edge_ws": "gateway"})

    def upgrade(request: Any) -> Response:
        return Response(status_code=status, headers={"edge-ws-error": marker} if marker else None)

    # A server that knows no WebSockets, as behind a proxy that takes the header away.
    routes = [Route("/edge-ws/health", health), Route("/edge-ws/v1/ws", upgrade)]
    with http_server(_without_websockets(Starlette(routes=routes))) as url:
        found = only(check.from_outside(url, f"{url}/execution/"))["websocket"]
    assert found.verdict is Verdict.WARNING
    assert "long-poll" in found.says


def _without_websockets(app: Starlette) -> Any:
    async def as_http(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await app(scope, receive, send)
            return

        async def deny(message: Any) -> None:
            await send({**message, "type": f"websocket.{message['type']}"})

        await app({**scope, "type": "http", "method": "GET"}, receive, deny)

    return as_http


# As a verb


def test_lines_and_json_and_the_exit_code(
    centre: Centre, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from argparse import Namespace

    verb = dict(leaves(VERBS))["check"]
    assert run(verb, Namespace(output="plain"), "edge-ws") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 14
    assert any(line.startswith("WRONG        gateways ") for line in lines)
    assert run(verb, Namespace(output="json"), "edge-ws") == 1
    told = json.loads(capsys.readouterr().out)
    assert [one["check"] for one in told] == [line[13:26].strip() for line in lines]
    assert {one["verdict"] for one in told} <= {one.value for one in Verdict}


def test_a_warning_is_no_fault() -> None:
    fine = Finding(check="x", verdict=Verdict.WARNING, says="slow")
    assert check.exit_code([fine]) == 0
    assert check.exit_code([fine, Finding(check="y", verdict=Verdict.WRONG, says="broken")]) == 1

"""The relay between two real servers."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from edge_ws.server.bodies import STEP
from edge_ws.server.places import FLOWING, OF_ONE, PLACES
from edge_ws.server.relay import Relay
from edge_ws.server.uvicorn_server import BelowPath
from tests.support.http import http_server
from tests.support.waiting import free_port, until, wait_until

TOKEN = "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiIwZiJ9.c2ln"
"""Of a task token's form."""
BEARER = {"authorization": f"Bearer {TOKEN}"}


@dataclass
class Upstream:
    """What Airflow's api-server is asked here, and answers."""

    asked: list[Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def app(self) -> Starlette:
        every = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]
        return Starlette(
            routes=[
                Route("/af/execution/redirect", self._redirect),
                Route("/af/execution/slow", self._slow),
                Route("/af/execution/stream", self._stream),
                Route("/af/execution/breaks", self._breaks),
                Route("/af/execution/xcoms/large", self._large),
                Route("/af/execution/unread", self._unread, methods=["POST"]),
                Route("/{path:path}", self._any, methods=every),
            ]
        )

    async def _any(self, request: Request) -> Response:
        self.asked.append(request)
        self.bodies.append(await request.body())
        headers = {"refreshed-api-token": "new", "keep-alive": "timeout=5", "x-more": "kept"}
        return PlainTextResponse(f"{request.method} answered", status_code=201, headers=headers)

    async def _redirect(self, request: Request) -> Response:
        return RedirectResponse("http://127.0.0.1:1/elsewhere")

    async def _slow(self, request: Request) -> Response:
        self.asked.append(request)
        if (await request.receive())["type"] == "http.request":
            await request.receive()
        self.left.set()
        return PlainTextResponse("nobody reads it")

    async def _stream(self, request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            await until(self.release.is_set)
            yield b"second"

        return StreamingResponse(chunks())

    async def _breaks(self, request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            raise OSError("the disk is full")

        return StreamingResponse(chunks())

    async def _large(self, request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(256):
                yield bytes(2**16)

        return StreamingResponse(chunks())

    async def _unread(self, request: Request) -> Response:
        return PlainTextResponse("too large", status_code=413)


@contextmanager
def relaying(airflow_url: str, path: str = "", patience_s: float = 10.0) -> Iterator[httpx2.Client]:
    relay = Relay(airflow_url, patience_s=patience_s)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with relay.running():
            yield

    app = Starlette(lifespan=lifespan, routes=[Route("/execution/{path:path}", relay)])
    with (
        http_server(BelowPath(app, path)) as url,
        httpx2.Client(base_url=url, timeout=10, headers=BEARER) as client,
    ):
        yield client


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def client(upstream: Upstream) -> Iterator[httpx2.Client]:
    with http_server(upstream.app()) as url, relaying(f"{url}/af/") as client:
        yield client


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"])
def test_every_method_with_its_query_and_body(upstream: Upstream, client: httpx2.Client, method: str) -> None:
    body = b'{"state": "success"}' if method in {"POST", "PUT", "PATCH"} else b""
    path = "/execution/task-instances/0f/state?a=1&b=%2F%20x&a=2"
    headers = {
        "airflow-api-version": "2026-06-30",
        "content-type": "application/json",
        "correlation-id": "c-1",
        "traceparent": "00-1-2-01",
        "connection": "correlation-id, keep-alive",
        "expect": "100-continue",
    }
    answer = client.request(method, path, content=body or None, headers=headers)
    assert answer.status_code == 201
    assert answer.text == ("" if method == "HEAD" else f"{method} answered")
    assert answer.headers["refreshed-api-token"] == "new"
    assert answer.headers["x-more"] == "kept"
    assert "keep-alive" not in answer.headers
    (asked,) = upstream.asked
    assert (asked.method, asked.url.path) == (method, "/af/execution/task-instances/0f/state")
    assert asked.url.query == "a=1&b=%2F%20x&a=2"
    assert upstream.bodies == [body]
    assert asked.headers["authorization"] == BEARER["authorization"]
    assert asked.headers["airflow-api-version"] == "2026-06-30"
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["traceparent"] == "00-1-2-01"
    assert {"correlation-id", "expect"}.isdisjoint(asked.headers)
    assert asked.headers["host"] != client.base_url.netloc.decode()


def test_a_body_of_unknown_length_streams(upstream: Upstream, client: httpx2.Client) -> None:
    size = 3 * 2**20
    answer = client.post("/execution/xcoms/d/r/t/k", content=(bytes(2**16) for _ in range(size // 2**16)))
    assert answer.status_code == 201
    assert [len(body) for body in upstream.bodies] == [size]


def test_an_answer_streams(upstream: Upstream, client: httpx2.Client) -> None:
    with client.stream("GET", "/execution/stream") as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b"first"
        upstream.release.set()
        assert b"".join(chunks) == b"second"


def test_an_escaped_path_arrives_as_it_was_sent(upstream: Upstream, client: httpx2.Client) -> None:
    client.get("/execution/xcoms/d/manual__2026-01-01T00%3A00%3A00%2B00%3A00/t/a%2Fb")
    (asked,) = upstream.asked
    assert asked.scope["raw_path"].endswith(b"/manual__2026-01-01T00%3A00%3A00%2B00%3A00/t/a%2Fb")


def test_below_a_path_that_no_proxy_has_taken_away(upstream: Upstream) -> None:
    with http_server(upstream.app()) as url, relaying(url, "/af") as client:
        assert client.get("/af/execution/health?x=1").status_code == 201
        assert client.get("/execution/health").status_code == 201
    assert [asked.url.path for asked in upstream.asked] == ["/execution/health", "/execution/health"]


@pytest.mark.parametrize(
    "path",
    [
        "/execution/../api/v2/dags",
        "/execution/%2e%2e/api/v2/dags",
        "/execution/..%2fapi/v2/dags",
        "/execution/x/%252e%252e/%252e%252e/api/v2/dags",
        "/execution/..%5capi",
        "/execution/./health",
        "/%65xecution/health",
        "/execution",
        "/api/v2/dags",
        "//execution/health",
    ],
)
def test_nothing_else_can_be_reached(upstream: Upstream, client: httpx2.Client, path: str) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    # A redirect of the route's own is to this server again.
    assert answer.split(b" ", 2)[1] in {b"404", b"307"}
    assert upstream.asked == []


def test_a_redirect_is_passed_on_not_followed(client: httpx2.Client) -> None:
    answer = client.get("/execution/redirect")
    assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:1/elsewhere")


def test_nothing_is_told_that_a_proxy_might_have_said(upstream: Upstream, client: httpx2.Client) -> None:
    told = ["cookie", "forwarded", "remote-user", "x-http-method-override", "x-original-url", "x-real-ip"]
    told += [f"x-forwarded-{one}" for one in ("for", "host", "port", "prefix", "proto", "user")]
    assert client.get("/execution/x", headers=dict.fromkeys(told, "admin")).status_code == 201
    (asked,) = upstream.asked
    assert set(told).isdisjoint(asked.headers)


def test_without_a_tasks_token_airflow_is_not_asked_for_its_answer(
    upstream: Upstream, client: httpx2.Client
) -> None:
    del client.headers["authorization"]
    for sent, status, detail in (
        (None, 401, "Missing auth token"),
        ("Basic dTpw", 401, "Missing auth token"),
        ("Bearer", 401, "Missing auth token"),
        ("Bearer t", 403, "Invalid auth token"),
        (f"Bearer {TOKEN}.more", 403, "Invalid auth token"),
        (f"Bearer {TOKEN}, x", 403, "Invalid auth token"),
    ):
        headers = {} if sent is None else {"authorization": sent}
        answer = client.put("/execution/task-instances/0f/heartbeat", json={}, headers=headers)
        assert (answer.status_code, answer.json()) == (status, {"detail": detail})
    assert client.put("/execution/health").status_code == 401
    assert upstream.asked == []
    assert client.get("/execution/health").status_code == 201


def test_airflows_pages_for_people_are_not_relayed(upstream: Upstream, client: httpx2.Client) -> None:
    for page in ("docs", "openapi.json?version=2026-06-30", "redoc", "changelog"):
        assert client.get(f"/execution/{page}").status_code == 404
    assert upstream.asked == []


def test_an_early_answer_to_a_long_request(client: httpx2.Client) -> None:
    assert client.post("/execution/unread", content=bytes(2**16)).status_code == 413


def test_an_api_server_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with caplog.at_level(logging.INFO, "edge_ws"), relaying(f"http://127.0.0.1:{port}") as client:
        for _ in range(3):
            answer = client.put("/execution/task-instances/0f/heartbeat", json={})
            assert answer.status_code == 502
        assert answer.headers["edge-ws-error"] == "no_answer"
        assert answer.json() == {
            "error": "no_answer",
            "sentence": "Airflow's api-server does not answer the gateway",
            "retry_after_s": None,
        }
    said = [one.getMessage() for one in caplog.records if one.name == "edge_ws.server.relay"]
    assert len(said) == 1
    assert str(port) in said[0]


def test_a_client_that_leaves_ends_the_request(upstream: Upstream, client: httpx2.Client) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        client.get("/execution/slow", timeout=0.5)
    assert upstream.left.wait(5)
    wait_until(lambda: client.get("/execution/health").status_code == 201)


def test_an_answer_that_breaks_off_breaks_off(client: httpx2.Client) -> None:
    with pytest.raises(httpx2.RemoteProtocolError):
        client.get("/execution/breaks")


def test_before_it_runs_it_says_so() -> None:
    with (
        http_server(Starlette(routes=[Route("/execution/{path:path}", Relay("http://127.0.0.1:1"))])) as url,
    ):
        assert httpx2.get(f"{url}/execution/health").status_code == 503


@contextmanager
def strangers(client: httpx2.Client, count: int, head: str, body: bytes) -> Iterator[list[socket.socket]]:
    """Have that many others begin a request, each with a forged token of its own."""
    with ExitStack() as all_of_them:
        one_by_one = []
        for number in range(count):
            raw = socket.create_connection((client.base_url.host, client.base_url.port))
            one_by_one.append(all_of_them.enter_context(raw))
            forged = f"host: x\r\nauthorization: Bearer e30.e30.{number}\r\n"
            raw.sendall(f"{head}\r\n{forged}content-length: 1048576\r\n\r\n".encode() + body)
        yield one_by_one


def beat(client: httpx2.Client, token: str = TOKEN) -> int:
    headers = {"authorization": f"Bearer {token}"}
    return client.put("/execution/task-instances/0f/heartbeat", json={}, headers=headers).status_code


def test_unfinished_requests_of_strangers_hold_nothing(upstream: Upstream, client: httpx2.Client) -> None:
    head = "PUT /execution/task-instances/0f/heartbeat HTTP/1.1"
    with strangers(client, PLACES + 10, head, b"{") as waiting:
        assert {beat(client) for _ in range(5)} == {201}
        # A task that is new here.
        assert {beat(client, f"e30.e30.new{number}") for number in range(5)} == {201}
        assert all(b'"PUT"' not in body for body in upstream.bodies)
        assert len(upstream.asked) == 10
        assert len(waiting) == PLACES + 10


def test_bodies_of_strangers_that_hardly_flow_hold_a_part(upstream: Upstream, client: httpx2.Client) -> None:
    assert beat(client) == 201
    head = "POST /execution/xcoms/d/r/t/k HTTP/1.1"
    with strangers(client, FLOWING + 10, head, bytes(STEP + 1)):
        wait_until(lambda: len(upstream.asked) == 1 + FLOWING)
        assert {beat(client, f"e30.e30.new{number}") for number in range(5)} == {201}
        # One that Airflow knows may be as large as it likes, all the same.
        assert client.post("/execution/xcoms/d/r/t/k", content=bytes(2**20)).status_code == 201
    assert len(upstream.bodies[-1]) == 2**20


def test_a_body_that_does_not_come_is_answered_and_cut(upstream: Upstream) -> None:
    head = "PUT /execution/task-instances/0f/heartbeat HTTP/1.1"
    with (
        http_server(upstream.app()) as url,
        relaying(f"{url}/af", patience_s=0.3) as client,
        strangers(client, 3, head, b"{") as waiting,
    ):
        for raw in waiting:
            answer = b"".join(iter(lambda raw=raw: raw.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 408 ")
    assert upstream.asked == []


def test_answers_that_nobody_takes_hold_nothing(upstream: Upstream) -> None:
    with (
        http_server(upstream.app()) as url,
        relaying(f"{url}/af", patience_s=0.3) as client,
        ExitStack() as all_of_them,
    ):
        for _ in range(OF_ONE):
            answer = all_of_them.enter_context(client.stream("GET", "/execution/xcoms/large"))
            assert answer.status_code == 200
        wait_until(lambda: beat(client) == 201)


def test_no_place_is_free(upstream: Upstream) -> None:
    with (
        http_server(upstream.app()) as url,
        relaying(f"{url}/af", patience_s=0.3) as client,
        ExitStack() as all_of_them,
    ):
        for _ in range(OF_ONE):
            all_of_them.enter_context(client.stream("GET", "/execution/stream"))
        answer = client.put("/execution/task-instances/0f/heartbeat", json={})
        assert (answer.status_code, answer.headers["edge-ws-error"]) == (503, "unavailable")
        assert beat(client, "e30.e30.other") == 201
        upstream.release.set()

"""The relay between two real servers."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from edge_ws.server.relay import Relay
from edge_ws.server.uvicorn_server import BelowPath
from tests.support.http import http_server
from tests.support.waiting import free_port, until, wait_until


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

    async def _unread(self, request: Request) -> Response:
        return PlainTextResponse("too large", status_code=413)


@contextmanager
def relaying(airflow_url: str, path: str = "") -> Iterator[httpx2.Client]:
    relay = Relay(airflow_url)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with relay.running():
            yield

    app = Starlette(lifespan=lifespan, routes=[Route("/execution/{path:path}", relay)])
    with http_server(BelowPath(app, path)) as url, httpx2.Client(base_url=url, timeout=10) as client:
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
        "authorization": "Bearer t",
        "airflow-api-version": "2026-06-30",
        "connection": "x-mine, keep-alive",
        "x-mine": "of this connection",
        "x-forwarded-for": "10.0.0.1",
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
    assert asked.headers["authorization"] == "Bearer t"
    assert asked.headers["airflow-api-version"] == "2026-06-30"
    assert {"x-mine", "x-forwarded-for", "expect"}.isdisjoint(asked.headers)
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


def test_no_cookie_of_one_client_goes_to_another(upstream: Upstream, client: httpx2.Client) -> None:
    client.get("/execution/x", headers={"cookie": "a=1"})
    client.get("/execution/x")
    assert [asked.headers.get("cookie") for asked in upstream.asked] == ["a=1", None]


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

"""A client that is refused while it sends gets the refusal, and strangers hold neither memory nor time by that."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from edge_ws.server.bodies import CLOSES
from edge_ws.server.refused_bodies import REST, REST_WITHIN_S, RESTS_AT_ONCE, RefusedBodies
from tests.support.http import http_server


async def _refuse(request: Request) -> JSONResponse:
    return JSONResponse({"error": "token"}, 401, CLOSES)


async def _take(request: Request) -> JSONResponse:
    return JSONResponse({"size": len(await request.body())}, 400 if "bad" in request.query_params else 200)


@pytest.fixture
def url() -> Iterator[str]:
    routes = [Route("/refuse", _refuse, methods=["POST"]), Route("/take", _take, methods=["POST"])]
    with http_server(RefusedBodies(Starlette(routes=routes))) as url:
        yield url


@pytest.mark.parametrize("size", [1, 100_000, REST])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_refusal_is_seen(url: str, size: int, is_chunked: bool) -> None:
    pieces = (bytes(min(size, 10_000)) for _ in range(max(1, size // 10_000)))
    for _ in range(20):
        answer = httpx2.post(
            f"{url}/refuse", content=pieces if is_chunked else bytes(size), trust_env=False, timeout=30
        )
        assert (answer.status_code, answer.json()) == (401, {"error": "token"})
        pieces = (bytes(min(size, 10_000)) for _ in range(max(1, size // 10_000)))


def test_a_body_that_was_read_is_not_waited_for(url: str) -> None:
    begun = time.monotonic()
    for _ in range(20):
        answer = httpx2.post(f"{url}/take?bad", content=bytes(100_000), trust_env=False, timeout=30)
        assert (answer.status_code, answer.json()) == (400, {"size": 100_000})
    assert httpx2.post(f"{url}/take", content=bytes(2 * REST), trust_env=False, timeout=30).json() == {
        "size": 2 * REST
    }
    assert time.monotonic() - begun < 20 * REST_WITHIN_S / 2


def _begin(url: str, *, length: int = 1000, more: str = "") -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30)
    raw.sendall(f"POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{more}\r\n{{".encode())
    return raw


def test_who_does_not_send_is_answered_all_the_same(url: str) -> None:
    with _begin(url) as raw:
        assert raw.recv(65536).startswith(b"HTTP/1.1 401 ")
    # At once: who would send much, and who waits for a word.
    for length, more in ((10 * REST, ""), (1000, "expect: 100-continue\r\n")):
        begun = time.monotonic()
        with _begin(url, length=length, more=more) as raw:
            assert raw.recv(65536).startswith(b"HTTP/1.1 401 ")
        assert time.monotonic() - begun < REST_WITHIN_S / 2


def test_of_too_many_the_rest_is_answered_at_once(url: str) -> None:
    with ExitStack() as all_of_them:
        begun = time.monotonic()
        several = [all_of_them.enter_context(_begin(url)) for _ in range(4 * RESTS_AT_ONCE)]
        for raw in several:
            assert raw.recv(65536).startswith(b"HTTP/1.1 401 ")
        # One after the other they would take four times as long.
        assert time.monotonic() - begun < 4 * REST_WITHIN_S

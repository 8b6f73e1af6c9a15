"""`nginx.conf`: a real nginx with it, before a gateway and what stands for Airflow's api-server."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from edge_ws.resources import examples_dir
from edge_ws.store.store import Store
from tests.support.certificates import Authority
from tests.support.gateway import make_token, serving
from tests.support.http import http_server
from tests.support.proxies import nginx_as
from tests.support.waiting import free_port


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def token(sqlite_engine: sa.Engine) -> str:
    return make_token(Store(sqlite_engine))


@pytest.fixture
def url(sqlite_engine: sa.Engine, authority: Authority) -> Iterator[str]:
    """The example as it is, but for addresses and files."""
    made = authority.server()

    async def airflow(request: Any) -> PlainTextResponse:
        return PlainTextResponse(f"Airflow got {len(await request.body())} bytes at {request.url.path}")

    app = Starlette(routes=[Route("/{path:path}", airflow, methods=["GET", "PUT"])])

    def config(folder: Path, port: int) -> str:
        text = (examples_dir() / "nginx.conf").read_text()
        for old, new in {
            "127.0.0.1:8080": api_server.removeprefix("http://"),
            "127.0.0.1:8794": f"127.0.0.1:{gateway.port}",
            # A gateway that has left.
            "127.0.0.1:8795": f"127.0.0.1:{free_port()}",
            "client_header_timeout 10s": "client_header_timeout 1s",
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "/etc/ssl/airflow.example.com.pem": str(made.certificate),
            "/etc/ssl/airflow.example.com.key": str(made.key),
        }.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        paths = "".join(
            f"{name}_temp_path {folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        return (
            f"daemon off; {user} pid {folder}/pid; error_log {folder}/error.log; events {{}}"
            f" http {{ access_log off; {paths} {text} }}"
        )

    with (
        serving(Store(sqlite_engine)) as gateway,
        http_server(app) as api_server,
        nginx_as(config) as proxy,
    ):
        yield f"https://localhost:{proxy.port}"


def test_one_host_leads_to_both(url: str, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=authority.file)
    with httpx2.Client(base_url=url, verify=context) as client:
        for _ in range(4):
            assert client.get("/edge-ws/health").json()["edge_ws"] == "gateway"
        assert client.get("/edge-ws/v1/ws").status_code == 426
        assert client.get("/api/v2/version").text == "Airflow got 0 bytes at /api/v2/version"
        answer = client.put("/execution/xcoms/d/r/t/k", content=bytes(3 * 2**20))
        assert answer.text == f"Airflow got {3 * 2**20} bytes at /execution/xcoms/d/r/t/k"


def test_websockets_pass(url: str, authority: Authority, token: str) -> None:
    context = ssl.create_default_context(cafile=authority.file)
    where = re.sub("^http", "ws", url) + "/edge-ws/v1/ws"

    async def open_one(secret: str) -> None:
        headers = {"edge-ws-token": secret, "edge-ws-worker": "w1"}
        async with connect(where, additional_headers=headers, ssl=context):
            pass

    anyio.run(open_one, token)
    with pytest.raises(InvalidStatus) as refused:
        anyio.run(open_one, "edgews_wrong")
    assert refused.value.response.headers["edge-ws-error"] == "token"


def test_it_is_the_gateway_that_says_what_is_too_large(url: str, authority: Authority, token: str) -> None:
    context = ssl.create_default_context(cafile=authority.file)
    headers = {"edge-ws-token": token, "edge-ws-worker": "w1", "content-type": "application/json"}
    with httpx2.Client(base_url=url, verify=context) as client:
        answer = client.post("/edge-ws/v1/send", content=b" " * (2**20 + 1), headers=headers)
    assert (answer.status_code, answer.headers["edge-ws-error"]) == (413, "protocol")


def test_heads_of_strangers_end_at_the_proxy(url: str, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=authority.file)
    where = httpx2.URL(url)
    with (
        socket.create_connection((where.host, where.port or 443), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=where.host) as raw,
        suppress(OSError),
    ):
        raw.sendall(b"GET /edge-ws/health HTTP/1.1\r\nhost: x\r\nx: ")
        assert raw.recv(1) == b""
    with httpx2.Client(base_url=url, verify=context) as client:
        assert client.get("/edge-ws/health", headers={"x": "y" * 2**17}).status_code in {400, 414, 431, 494}
        assert client.get("/edge-ws/health").status_code == 200

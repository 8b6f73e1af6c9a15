"""The proxies that tests start do what they are taken for: proven by a server that echoes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from websockets.asyncio.client import connect as in_one_thread
from websockets.exceptions import ConnectionClosed, InvalidProxyStatus, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from tests.support.breaker import Upgrades, breaking
from tests.support.certificates import Authority
from tests.support.echo import echoing
from tests.support.proxies import NGINX_PASSES_UPGRADES, haproxy, nginx, squid
from tests.support.waiting import wait_until

UPGRADE = {"connection": "upgrade", "upgrade": "websocket"}


@pytest.fixture
def echo() -> Iterator[int]:
    with echoing() as port:
        yield port


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


def said_back(port: int, *, scheme: str = "ws", **options: Any) -> str:
    """Say hello to the echo; return its answer.

    One thread: the client of two reads and writes at once, which OpenSSL does not allow on one connection.
    """
    url = f"{scheme}://127.0.0.1:{port}/ws"

    async def say() -> str:
        async with in_one_thread(url, close_timeout=1, **{"proxy": None, **options}) as websocket:
            await websocket.send("hello")
            return str(await asyncio.wait_for(websocket.recv(), 5))

    return asyncio.run(say())


def test_nginx_by_default_takes_the_upgrade_away(echo: int) -> None:
    with nginx([echo]) as proxy:
        told = httpx2.post(f"{proxy.url}/any", content="body", headers=UPGRADE).json()
        assert (told["version"], told["body"]) == ("1.0", "body")
        assert "upgrade" not in told["headers"]
        with pytest.raises(InvalidStatus):
            said_back(proxy.proxy.port)


def test_nginx_passes_upgrades_and_takes_another_configuration_while_it_runs(echo: int) -> None:
    with nginx([echo], NGINX_PASSES_UPGRADES) as proxy:
        assert said_back(proxy.proxy.port) == "hello"
        with connect(f"ws://127.0.0.1:{proxy.proxy.port}/ws", proxy=None, close_timeout=1) as websocket:
            proxy.configure()
            websocket.send("still here")
            assert websocket.recv(5) == "still here"
        with pytest.raises(InvalidStatus):
            said_back(proxy.proxy.port)


def test_nginx_cuts_what_is_idle_for_long(echo: int) -> None:
    location = NGINX_PASSES_UPGRADES + "proxy_read_timeout 300ms;"
    with nginx([echo], location) as proxy, pytest.raises(ConnectionClosed):
        silent_for(proxy.proxy.port, 5)


def test_haproxy_cuts_what_is_idle_for_long(echo: int) -> None:
    with haproxy(echo, timeout="300ms") as proxy, pytest.raises(ConnectionClosed):
        silent_for(proxy.port, 5)


def test_nginx_goes_round(echo: int) -> None:
    with echoing() as other, nginx([echo, other]) as proxy, httpx2.Client() as client:
        for _ in range(4):
            assert client.get(f"{proxy.url}/any").status_code == 200
        wanted = {f"127.0.0.1:{port}" for port in (echo, other)}
        assert {one.gateways for one in proxy.requests()} == wanted


def test_a_killed_proxy_breaks_its_connections_and_comes_back(echo: int) -> None:
    with nginx([echo], NGINX_PASSES_UPGRADES) as proxy:
        with connect(f"ws://127.0.0.1:{proxy.proxy.port}/ws", proxy=None, close_timeout=1) as websocket:
            proxy.proxy.kill()
            with pytest.raises(ConnectionClosed):
                websocket.recv(5)
        proxy.proxy.start()
        assert said_back(proxy.proxy.port) == "hello"


def test_haproxy_refuses_upgrades(echo: int) -> None:
    rules = "    http-request deny deny_status 403 if { req.hdr(upgrade) -i websocket }"
    with haproxy(echo, rules=rules) as proxy:
        assert httpx2.get(f"{proxy.url}/any").status_code == 200
        with pytest.raises(InvalidStatus, match="403"):
            said_back(proxy.port)


def test_haproxy_sends_the_execution_api_elsewhere(echo: int) -> None:
    with echoing() as other, haproxy(echo, execution_api=other) as proxy:
        for path, port in (("/execution/run", other), ("/edge-ws/health", echo)):
            told = httpx2.get(f"{proxy.url}{path}").json()
            assert told["port"] == port


def test_haproxy_with_tls_wants_a_client_certificate(echo: int, authority: Authority) -> None:
    server = authority.server()
    bind = f"ssl crt {server.both} ca-file {authority.file} verify required"
    with haproxy(echo, bind=bind) as proxy:
        with pytest.raises(ssl.SSLCertVerificationError):
            said_back(proxy.port, scheme="wss", ssl=ssl.create_default_context())
        trusting = ssl.create_default_context(cafile=authority.file)
        # By TLS 1.3 the server says so only after the client has begun to speak.
        with pytest.raises((OSError, WebSocketException)):
            said_back(proxy.port, scheme="wss", ssl=trusting)
        client = authority.client()
        trusting.load_cert_chain(client.certificate, client.key)
        assert said_back(proxy.port, scheme="wss", ssl=trusting) == "hello"


def test_squid_wants_its_password(echo: int) -> None:
    with squid() as proxy:
        assert said_back(echo, proxy=proxy.by()) == "hello"
        with httpx2.Client(proxy=proxy.by()) as client:
            assert client.get(f"http://127.0.0.1:{echo}/any").status_code == 200
        with pytest.raises(InvalidProxyStatus, match="407"):
            said_back(echo, proxy=proxy.by(password="wrong"))
        wait_until(lambda: f"CONNECT 127.0.0.1:{echo}" in proxy.requests())


def test_squid_denies_tunnels(echo: int) -> None:
    with squid(rules="http_access deny CONNECT") as proxy, pytest.raises(InvalidProxyStatus, match="403"):
        said_back(echo, proxy=proxy.by())


@pytest.mark.parametrize("upgrades", Upgrades)
def test_a_breaker_lets_http_pass_and_breaks_upgrades(echo: int, upgrades: Upgrades) -> None:
    with breaking([echo], upgrades) as breaker:
        assert httpx2.post(f"{breaker.url}/any", content="body").json()["body"] == "body"
        match upgrades:
            case Upgrades.PASS:
                assert said_back(breaker.port) == "hello"
                with connect(f"ws://127.0.0.1:{breaker.port}/ws", proxy=None, close_timeout=1) as websocket:
                    assert breaker.cut(only_upgraded=True) == 1
                    with pytest.raises(ConnectionClosed):
                        websocket.recv(5)
            case Upgrades.NO_ANSWER | Upgrades.SILENT:
                with pytest.raises(TimeoutError):
                    silent_for(breaker.port, 0.3)
            case Upgrades.CLOSED:
                with pytest.raises(ConnectionClosed):
                    said_back(breaker.port)
            case Upgrades.REFUSED:
                with pytest.raises(InvalidStatus, match="403"):
                    said_back(breaker.port)
        assert breaker.asked


def silent_for(port: int, while_s: float) -> None:
    url = f"ws://127.0.0.1:{port}/ws"
    with connect(url, proxy=None, open_timeout=while_s, close_timeout=0.1) as websocket:
        websocket.recv(while_s)


def test_nothing_of_a_proxy_is_left(echo: int) -> None:
    with nginx([echo]) as one, haproxy(echo) as two, squid() as three:
        folders = [one.proxy.folder, two.folder, three.proxy.folder]
        found = [process for folder in folders for process in of(folder)]
        # nginx and its worker, haproxy, squid and its helper.
        assert len(found) >= 5
    assert not [process for folder in folders for process in of(folder)]
    assert not any(folder.exists() for folder in folders)


def of(folder: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if str(folder) in (process.info["cwd"] or "") + " ".join(process.info["cmdline"] or [])
    ]

"""A real squid on the worker's way out: both transports and the tasks go through it, or the worker says why not."""

from __future__ import annotations

import pytest

from tests.proxies.stand import Stand
from tests.support.certificates import Authority
from tests.support.proxies import haproxy, squid
from tests.support.waiting import wait_until

pytestmark = pytest.mark.system


@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
def test_a_proxy_is_killed_in_the_middle(stand: Stand, transport: str) -> None:
    gateway = stand.gateway()
    with squid() as proxy:
        worker = stand.worker(gateway.url, "--transport", transport, EDGE_WS_PROXY=proxy.by())
        stand.stream(proxy.proxy.restart)
        assert set(worker.connections()) == {transport}
        assert "secret" not in worker.told
        worker.kill()
        way = f"CONNECT 127.0.0.1:{gateway.port}" if transport == "websocket" else "/edge-ws/v1/poll"
        wait_until(lambda: way in proxy.requests())
        # The tasks' own calls, too.
        wait_until(lambda: f"{stand.centre.url}task-instances/" in proxy.requests())


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY"])
def test_the_proxy_of_the_environment(stand: Stand, authority: Authority, name: str) -> None:
    gateway = stand.gateway("--one-address")
    bind = f"ssl crt {authority.server().both}"
    with squid() as proxy, haproxy(gateway.port, bind=bind, execution_api=stand.execution_api) as front:
        url = f"https://localhost:{front.port}"
        worker = stand.worker(url, "--ca-file", str(authority.file), **{name: proxy.by()})
        stand.stream(jobs=3)
        assert worker.connections() == ["websocket"]
        worker.kill()
        # The worker's, and those of the three tasks' supervisors.
        wait_until(lambda: proxy.requests().count(f"CONNECT localhost:{front.port}") >= 4)


def test_no_proxy_is_honoured(stand: Stand) -> None:
    gateway = stand.gateway()
    with squid() as proxy:
        told = {"HTTP_PROXY": proxy.by(), "ALL_PROXY": proxy.by(), "NO_PROXY": "example.org,127.0.0.1"}
        worker = stand.worker(gateway.url, **told)
        stand.stream(jobs=3)
        assert worker.connections() == ["websocket"]
        worker.kill()
        proxy.proxy.stop()
        assert not proxy.requests()


@pytest.mark.parametrize("transport", ["auto", "websocket", "longpoll"])
def test_a_wrong_password_is_said(stand: Stand, transport: str) -> None:
    gateway = stand.gateway()
    with squid() as proxy:
        told = proxy.by(password="mistaken")
        worker = stand.worker(gateway.url, "--transport", transport, connects=False, EDGE_WS_PROXY=told)
        worker.wait_for("407", 2)
        assert f"127.0.0.1:{proxy.proxy.port}" in worker.told
        assert "mistaken" not in worker.told
        assert not worker.connections()


def test_a_proxy_that_denies_tunnels_lets_long_poll_pass(stand: Stand) -> None:
    gateway = stand.gateway()
    with squid(rules="http_access deny CONNECT") as proxy:
        worker = stand.worker(gateway.url, EDGE_WS_PROXY=proxy.by())
        stand.stream(proxy.proxy.restart)
        assert set(worker.connections()) == {"longpoll"}


def test_a_proxy_that_denies_tunnels_leaves_no_way_to_https(stand: Stand, authority: Authority) -> None:
    gateway = stand.gateway()
    with (
        squid(rules="http_access deny CONNECT") as proxy,
        haproxy(gateway.port, bind=f"ssl crt {authority.server().both}") as front,
    ):
        url = f"https://localhost:{front.port}"
        trust = ["--ca-file", str(authority.file)]
        worker = stand.worker(url, *trust, connects=False, EDGE_WS_PROXY=proxy.by())
        worker.wait_for("403", 2)
        assert f"127.0.0.1:{proxy.proxy.port}" in worker.told
        assert not worker.connections()

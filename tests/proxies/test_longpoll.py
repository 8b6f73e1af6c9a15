"""Where no WebSocket passes, a worker with no setting changed long-polls, says why, and loses nothing."""

from __future__ import annotations

import time

import pytest

from tests.proxies.stand import Stand
from tests.support.breaker import Upgrades, breaking
from tests.support.proxies import NGINX_PASSES_UPGRADES, Nginx, Request, haproxy, nginx
from tests.support.waiting import wait_until

pytestmark = pytest.mark.system

STORES_AND_FORWARDS = """
            proxy_http_version 1.1;
            proxy_buffering on;
            proxy_request_buffering on;
            gzip on;
            gzip_types application/json;
            gzip_min_length 1;
            gzip_proxied any;
"""
SOON_S = 8.0
"""Sooner than a WebSocket that gets no answer is given up: no job waits for that."""


def polls(proxy: Nginx) -> list[Request]:
    """Return the polls that have ended."""
    return [one for one in proxy.requests() if one.path == "/edge-ws/v1/poll"]


@pytest.mark.parametrize("location", ["", STORES_AND_FORWARDS], ids=["default", "stores-and-forwards"])
def test_nginx_takes_the_upgrade_away(stand: Stand, location: str) -> None:
    gateway = stand.gateway("--heartbeat-s", "3")
    with nginx([gateway.port], location) as proxy:
        worker = stand.worker(proxy.url)
        assert worker.connections() == ["longpoll"]
        worker.wait_for("got no Upgrade header: something on the way takes it away")
        assert stand.record().transport == "longpoll"
        wait_until(lambda: "takes it away" in str(stand.record().sysinfo.get("transport_reason")))
        stand.stream(proxy.proxy.restart)
        assert set(worker.connections()) == {"longpoll"}
        # Whole bodies of a length told before: nobody on the way has to pass on parts.
        assert all(one.length.isdigit() for one in proxy.requests() if one.status == "200")


def test_haproxy_refuses_the_upgrade(stand: Stand) -> None:
    gateway = stand.gateway("--heartbeat-s", "3")
    rules = "    http-request deny deny_status 403 if { req.hdr(upgrade) -i websocket }"
    with haproxy(gateway.port, rules=rules) as proxy:
        worker = stand.worker(proxy.url)
        assert worker.connections() == ["longpoll"]
        worker.wait_for("answered with HTTP status 403: something on the way does not let WebSockets pass")
        assert "token" not in worker.told
        stand.stream(proxy.restart)
        assert set(worker.connections()) == {"longpoll"}


@pytest.mark.parametrize("upgrades", [Upgrades.NO_ANSWER, Upgrades.SILENT, Upgrades.CLOSED])
def test_an_upgrade_comes_to_nothing(stand: Stand, upgrades: Upgrades) -> None:
    gateway = stand.gateway("--heartbeat-s", "3")
    with breaking([gateway.port], upgrades) as breaker:
        worker = stand.worker(breaker.url, connects=False)
        worker.wait_for("connected: w1 by longpoll", deadline_s=SOON_S)
        stand.stream(breaker.cut)
        assert set(worker.connections()) == {"longpoll"}


def test_a_held_poll_is_cut_short(stand: Stand) -> None:
    # Polls are held for 5 s, and nginx waits for 2 s.
    gateway = stand.gateway("--heartbeat-s", "3")
    with nginx([gateway.port], "proxy_read_timeout 2s;") as proxy:
        worker = stand.worker(proxy.url)
        wait_until(lambda: len(polls(proxy)) >= 6, 20)
        statuses = [one.status for one in polls(proxy)]
        # Once is enough; others than these it has given up itself, to tell of a change.
        assert statuses.count("504") == 1, statuses
        assert set(statuses) <= {"504", "200", "499"}
        assert worker.connections() == ["longpoll"]
        assert "not connected" not in worker.told
        stand.stream(proxy.proxy.restart)


def test_an_idle_worker_outlives_the_proxys_time_out(stand: Stand) -> None:
    # Heartbeats of 15 s and a time-out of 30 s, seven and a half times shorter.
    gateway = stand.gateway("--heartbeat-s", "2")
    with nginx([gateway.port], "proxy_read_timeout 4s;") as proxy:
        worker = stand.worker(proxy.url, "--transport", "longpoll")
        # Idle on purpose: more than two time-outs, one of them after it has begun to take jobs.
        worker.wait_for("taking jobs")
        time.sleep(9.0)
        assert "not connected" not in worker.told
        assert worker.connections() == ["longpoll"]
        assert {one.status for one in polls(proxy)} <= {"200", "499"}
        assert len(polls(proxy)) <= 9, polls(proxy)


@pytest.mark.parametrize("location", ["", NGINX_PASSES_UPGRADES], ids=["no-upgrades", "upgrades"])
def test_a_wrong_token_is_refused_by_whatever_way(stand: Stand, location: str) -> None:
    gateway = stand.gateway()
    stand.token = "edgews_wrong"
    with nginx([gateway.port], location) as proxy:
        worker = stand.worker(proxy.url, connects=False)
        assert worker.popen is not None
        assert worker.popen.wait(20) == 3
        assert "at the centre: airflow edge-ws token create" in worker.told
        paths = [one.path for one in proxy.requests()]
        assert paths == ["/edge-ws/v1/ws", *([] if location else ["/edge-ws/v1/poll"])]


def test_any_of_two_gateways_answers_any_poll(stand: Stand) -> None:
    ports = [stand.gateway("--heartbeat-s", "2", "--offer-lease-s", "3").port for _ in range(2)]
    with nginx(ports) as proxy:
        worker = stand.worker(proxy.url, "--transport", "longpoll")
        stand.stream(proxy.proxy.restart)
        assert set(worker.connections()) == {"longpoll"}
        assert {one.gateways for one in polls(proxy)} == {f"127.0.0.1:{port}" for port in ports}
        # Nor does it matter that one of them dies.
        stand.stream(stand.gateways[0].kill)

"""WebSockets through real proxies that let them pass: idle links live, cut links lose nothing."""

from __future__ import annotations

import time

import pytest

from tests.proxies.stand import Stand
from tests.support.proxies import NGINX_PASSES_UPGRADES, haproxy, nginx

pytestmark = pytest.mark.system

IDLE_S = 7.0
"""More than three time-outs."""


def test_nginx_that_passes_upgrades_is_killed_in_the_middle(stand: Stand) -> None:
    gateway = stand.gateway()
    with nginx([gateway.port], NGINX_PASSES_UPGRADES) as proxy:
        worker = stand.worker(proxy.url)
        stand.stream(proxy.proxy.restart)
        worker.wait_for("connected: ", 2)
        assert worker.connections() == ["websocket", "websocket"]
        assert stand.record().transport == "websocket"


def test_an_idle_link_outlives_the_proxies_time_outs(stand: Stand) -> None:
    # Heartbeats of 15 s and time-outs of 30 s, fifteen times shorter.
    gateway = stand.gateway("--heartbeat-s", "1")
    location = f"{NGINX_PASSES_UPGRADES} proxy_read_timeout 2s; proxy_send_timeout 2s;"
    with nginx([gateway.port], location) as back, haproxy(back.proxy.port, timeout="2s") as front:
        worker = stand.worker(front.url)
        # Idle on purpose.
        time.sleep(IDLE_S)
        assert "not connected" not in worker.told
        stand.stream(jobs=3)
        assert worker.connections() == ["websocket"]

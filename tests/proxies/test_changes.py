"""The network changes while jobs run: WebSockets cease, come and go, and come back; nothing is lost or doubled."""

from __future__ import annotations

import itertools
import signal

import pytest

from tests.chaos.centre import Task
from tests.proxies.stand import READY_S, Daemon, Stand
from tests.support.breaker import Breaker, Upgrades, breaking
from tests.support.proxies import NGINX_PASSES_UPGRADES, nginx
from tests.support.waiting import wait_until

pytestmark = pytest.mark.system


def close_the_way(breaker: Breaker) -> None:
    breaker.upgrades = Upgrades.REFUSED
    breaker.cut(only_upgraded=True)


def test_the_websocket_ceases_while_jobs_run(stand: Stand) -> None:
    gateway = stand.gateway("--heartbeat-s", "3")
    with breaking([gateway.port], Upgrades.PASS) as breaker:
        worker = stand.worker(breaker.url)
        stand.stream(lambda: close_the_way(breaker))
        worker.wait_for("connected: ", 2)
        assert worker.connections() == ["websocket", "longpoll"]
        assert stand.record().transport == "longpoll"


def test_a_job_is_cancelled_over_long_poll(stand: Stand) -> None:
    gateway = stand.gateway("--heartbeat-s", "3")
    with breaking([gateway.port], Upgrades.PASS) as breaker:
        # Its own supervisor would hear of it, too; much later.
        worker = stand.worker(breaker.url, AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL="60")
        task = Task("long", 1, 1)
        stand.plan(task, last_s=600.0, lines=5)
        stand.centre.want(task)
        stand.centre.tick()
        wait_until((stand.notes / "long.trace").exists, READY_S)
        close_the_way(breaker)
        worker.wait_for("connected: w1 by longpoll")
        assert worker.job_processes()
        task.now.state = "restarting"  # as Airflow has it when it is cleared
        wait_until(lambda: not worker.job_processes())
        wait_until(lambda: not worker.kept())


def test_websockets_that_flap_make_it_stay_with_long_poll(stand: Stand) -> None:
    gateway = stand.gateway("--heartbeat-s", "3")
    with breaking([gateway.port], Upgrades.PASS) as breaker:
        worker = stand.worker(breaker.url)

        def flap() -> None:
            breaker.cut(only_upgraded=True)

        stand.stream(*[flap] * 6, jobs=9)
        by = worker.connections()
        assert sum(one != other for one, other in itertools.pairwise(by)) <= 1, by
        assert by[-1] == "longpoll"


def hangup(worker: Daemon) -> None:
    worker.signal(signal.SIGHUP)
    worker.wait_for("connected: w1 by websocket")


def test_the_websocket_is_possible_again(stand: Stand) -> None:
    gateway = stand.gateway("--heartbeat-s", "3")
    with nginx([gateway.port]) as proxy:
        worker = stand.worker(proxy.url)
        assert worker.connections() == ["longpoll"]
        stand.stream(lambda: proxy.configure(NGINX_PASSES_UPGRADES), lambda: hangup(worker), jobs=9)
        assert worker.connections() == ["longpoll", "websocket"]
        assert stand.record().transport == "websocket"


def test_a_probe_that_fails_changes_nothing(stand: Stand) -> None:
    gateway = stand.gateway("--heartbeat-s", "3")
    with breaking([gateway.port], Upgrades.CLOSED) as breaker:
        worker = stand.worker(breaker.url)
        asked = breaker.asked

        def probe() -> None:
            worker.signal(signal.SIGHUP)
            wait_until(lambda: breaker.asked > asked)

        stand.stream(probe)
        assert set(worker.connections()) == {"longpoll"}

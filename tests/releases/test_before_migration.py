"""New parts on the old release's tables: what serves meanwhile, and what says that it waits for the migration."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import product

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.releases.conftest import Centre
from tests.releases.parts import (
    ENDS_WITHIN_S,
    STARTS_WITHIN_S,
    Release,
    gateway,
    started_executor,
    starts,
    worker,
)
from tests.support.execution_api import execution_api
from tests.support.jobs import make_site
from tests.support.standalone import ready
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

WORKERS = {"old": ("old", "websocket"), "new": ("new", "websocket"), "new-longpoll": ("new", "longpoll")}
"""Name, and queue -> release and transport."""


def test_old_gateways_serve_all_others(centre: Centre, old: Release, new: Release) -> None:
    releases = {"old": old, "new": new}
    with ExitStack() as stack:
        api = stack.enter_context(execution_api())
        one = stack.enter_context(gateway(old, centre.folder, centre.database, api))
        ready(one)
        site = make_site(centre.folder / "site")
        workers = []
        for name, (release, transport) in WORKERS.items():
            made = worker(releases[release], transport, site, name, url=one.url, token=centre.token)
            workers.append(stack.enter_context(made))
        executors = [
            stack.enter_context(started_executor(release, centre.folder, centre.database, number))
            for number, release in enumerate((old, new), 7)
        ]
        for made in workers:
            wait_until(made.takes_jobs, STARTS_WITHIN_S, every_s=0.1)
        queued = [(boss, boss.queue("hello", name, 2)) for boss, name in product(executors, WORKERS)]
        for boss, tasks in queued:
            wait_until(lambda boss=boss, tasks=tasks: boss.has_told(*tasks), ENDS_WITHIN_S, every_s=0.1)
            assert {boss.told[task.id] for task in tasks} == {"success"}
            assert [starts(api, task) for task in tasks] == [1, 1]
        said = (centre.folder / "executor-8.log").read_text()
        assert "are out of date (there is no table edge_ws_fault)" in said
        assert "run `airflow db migrate` or `edge-ws db migrate`" in said


def test_a_new_gateway_answers_503_and_says_what_to_run(centre: Centre, new: Release) -> None:
    with execution_api() as api, gateway(new, centre.folder, centre.database, api) as one:
        wait_until(one.health, STARTS_WITHIN_S, every_s=0.1)
        sentence = (
            "the gateway does not serve now: its tables are missing or another release's (run `airflow db"
            " migrate` or `edge-ws db migrate`); its server's log says more"
        )
        for method, path in [
            ("GET", "health"),
            ("GET", "v1/ws"),
            ("POST", "v1/poll"),
            ("POST", "v1/send"),
            ("GET", "v1/whoami"),
            ("GET", "v1/admin/workers"),
            ("POST", "v1/admin/workers/factory-7/shutdown"),
        ]:
            answer = httpx2.request(method, f"{one.url}/edge-ws/{path}")
            assert answer.status_code == 503, path
            assert answer.headers["edge-ws-error"] == "unavailable"
            assert answer.json()["error"] == "unavailable"
            assert answer.json()["sentence"] == sentence
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{one.port}/edge-ws/v1/ws")
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["edge-ws-error"] == "unavailable"
        assert "are out of date (there is no table edge_ws_fault)" in one.log.read_text()
        assert "Traceback" not in one.log.read_text()


def test_verbs_say_what_to_run(centre: Centre, new: Release) -> None:
    done = new.edge_ws(centre.folder, centre.database, "db", "check")
    assert done.returncode == 5
    assert "run `airflow db migrate` or `edge-ws db migrate`" in done.stderr
    assert "Traceback" not in done.stderr
